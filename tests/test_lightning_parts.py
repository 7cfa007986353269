"""Lightning's callbacks, loggers, profilers and strategies from the command line: each works, or gets one line."""

import warnings

import pytest

from lightning_cifar import main

SHORT = ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1", "--trainer.log_every_n_steps", "1"]
WORKS = ""  # else words of the line
CALLBACKS = {
    "BackboneFinetuning": "cannot be used here",
    "BaseFinetuning": "cannot be used here",
    "BasePredictionWriter": WORKS,
    "BatchSizeFinder": WORKS,
    "DeviceStatsMonitor": WORKS,
    "EarlyStopping": "monitor",
    "EMAWeightAveraging": WORKS,
    "GradientAccumulationScheduler": "scheduling",
    "LambdaCallback": WORKS,
    "LearningRateFinder": WORKS,
    "LearningRateMonitor": WORKS,
    "ModelCheckpoint": WORKS,
    "ModelPruning": "callbacks",
    "ModelSummary": WORKS,
    "OnExceptionCheckpoint": "dirpath",
    "RichModelSummary": "rich",
    "RichProgressBar": "rich",
    "SpikeDetection": WORKS,
    "StochasticWeightAveraging": "swa_lrs",
    "ThroughputMonitor": "batch_size_fn",
    "Timer": WORKS,
    "TQDMProgressBar": WORKS,
    "WeightAveraging": WORKS,
}
PARTS = [("callbacks", name, words) for name, words in CALLBACKS.items()]
PARTS += [("logger", name, WORKS) for name in ("CSVLogger", "TensorBoardLogger")]
PARTS += [("logger", "CometLogger", "not met")]
PARTS += [("profiler", name, WORKS) for name in ("simple", "advanced", "pytorch")]
PARTS += [("strategy", "auto", WORKS)]
PARTS += [("strategy", "ddp", WORKS), ("strategy", "fsdp", "requires a GPU"), ("strategy", "deepspeed", "DeepSpeed")]


LONG = ("BatchSizeFinder", "pytorch")  # take seconds


@pytest.mark.parametrize(
    ("group", "name", "words"),
    [pytest.param(*part, marks=pytest.mark.long if part[1] in LONG else pytest.mark.slow) for part in PARTS],
)
def test_part_of_lightning_works_or_gets_one_line(tiny, tmp_path, capsys, group, name, words):
    options = (
        ["--trainer.logger.save_dir", str(tmp_path / "logs")] if name in ("CSVLogger", "TensorBoardLogger") else []
    )
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status = main(["fit", *tiny, *SHORT, f"--trainer.{group}", name, *options, "--run_dir", "run"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (status, len(lines)) == ((2, 1) if words else (0, 0)), lines
    assert all(words in line for line in lines)
