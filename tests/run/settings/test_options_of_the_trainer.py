"""Options and callbacks of Lightning's Trainer that users reported as ignored, unexplained or wrong."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from lightning_cifar import Throughput, main
from lightning_cifar.run.process import launcher, state
from lightning_cifar.run.records.run_json import RunRecord
from lightning_cifar.train.checkpoint import load_checkpoint

CALLBACKS = "--trainer.callbacks"
SHORT = ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1", "--trainer.log_every_n_steps", "1"]


def fit(tiny: list[str], *args: object) -> int:
    return main(["fit", *tiny, *SHORT, *map(str, args), "--run_dir", "run"])


@pytest.mark.parametrize(
    ("mark", "number"),
    [("TORCHELASTIC_RUN_ID", "WORLD_SIZE"), ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"),
     ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")],
)  # fmt: skip
def test_processes_of_a_launcher_need_as_many_devices(tiny, capsys, monkeypatch, mark, number):
    monkeypatch.setenv(mark, "0")
    monkeypatch.setenv(number, "2")
    assert fit(tiny) == 2
    assert capsys.readouterr().err.endswith("started 2 processes for --trainer.devices 1: add --trainer.devices 2\n")
    assert not Path("run").exists()
    monkeypatch.setattr(launcher, "is_rank_zero", lambda: False)
    assert (fit(tiny), capsys.readouterr().err) == (2, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "last"), [(3, 2), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((2, 1), (4, 3)))]
)
def test_last_group_of_accumulated_gradients_is_divided_by_its_batches(tiny, monkeypatch, size, last):
    backward = torch.Tensor.register_hook
    scaled = []

    def register_hook(tensor, hook):
        scaled.append(hook(torch.ones(())).item())
        return backward(tensor, hook)

    monkeypatch.setattr(torch.Tensor, "register_hook", register_hook)
    batches = size + last if size < 4 else 3
    assert fit(tiny, "--trainer.limit_train_batches", batches, "--trainer.accumulate_grad_batches", size) == 0
    assert scaled == pytest.approx([size / last] * last)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("callback", "options"),
    [
        pytest.param("StochasticWeightAveraging", ["swa_lrs", "0.01"], marks=pytest.mark.slow),
        pytest.param("EMAWeightAveraging", [], marks=pytest.mark.slow),
        ("EarlyStopping", ["monitor", "val/loss"]),
    ],
)
def test_run_with_a_callback_of_lightning_is_resumed(tiny, callback, options):
    words = [CALLBACKS, callback, f"{CALLBACKS}.{options[0]}", options[1]] if options else [CALLBACKS, callback]
    assert fit(tiny, "--trainer.max_epochs", "2", *words) == 0
    assert "Unable to serialize" not in Path("run/config.yaml").read_text()
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "3"]) == 0
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] > 6


@pytest.mark.parametrize("monitor", ["val_loss", "test/loss"])
@pytest.mark.parametrize("callback", ["EarlyStopping", "ModelCheckpoint"])
def test_monitor_that_is_never_logged_is_found_before_training(tiny, capsys, callback, monitor):
    assert fit(tiny, CALLBACKS, callback, f"{CALLBACKS}.monitor", monitor) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{callback} monitors {monitor}, which is never logged" in line
    assert not Path("run").exists()


@pytest.mark.parametrize("callback", ["EarlyStopping", "ModelCheckpoint"])
def test_monitor_of_the_worst_is_refused(tiny, capsys, callback):
    """Lightning's mode is min by default, by which a rising accuracy ends training, and the worst epoch is kept."""
    assert fit(tiny, CALLBACKS, callback, f"{CALLBACKS}.monitor", "val/accuracy") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {callback} takes the worst val/accuracy for the best: set its mode to max"


@pytest.mark.slow
def test_why_training_ended_is_printed_and_what_callbacks_print_is_shown(tiny, capsys, caplog):
    """But nothing else that Lightning prints at every start; one GPU's index is one device without a GPU."""
    levels = [logging.getLogger(name).level for name in state.SHOWN]
    early = [CALLBACKS, "EarlyStopping", f"{CALLBACKS}.monitor", "val/loss", f"{CALLBACKS}.stopping_threshold", "100"]
    shown = [f"{CALLBACKS}.verbose", "true", "--trainer.enable_model_summary", "true", "--trainer.devices", "[0]"]
    assert fit(tiny, *early, *shown, "--trainer.max_epochs", "9") == 0
    assert "ended early: Stopping threshold reached" in capsys.readouterr().out
    summary, reason = (record.message for record in caplog.records)
    assert "Trainable params" in summary
    assert reason.startswith("Stopping threshold reached")
    assert [logging.getLogger(name).level for name in state.SHOWN] == levels
    assert not logging.getLogger(state.SHARED).filters


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*could not find the monitored key")  # training ends before a validation
@pytest.mark.parametrize(
    ("limit", "value"),
    [("max_steps", "2"), pytest.param("max_time", "00:00:00:01", marks=pytest.mark.slow)],
)
def test_limit_that_was_reached_is_named(tiny, capsys, limit, value):
    """`test_resuming_a_finished_run_trains_nothing` has ``max_epochs``."""
    assert fit(tiny, "--trainer.max_epochs", "1000", f"--trainer.{limit}", value) == 0
    assert ("ended early: " in capsys.readouterr().out) == (limit == "max_time")  # of max_steps, no callback is blamed
    assert main(["fit", "--resume", "run"]) == 0
    assert f"this run is complete; raise --trainer.{limit} to train on" in capsys.readouterr().out


@pytest.mark.slow
def test_run_that_early_stopping_ended_stays_as_it_is_until_the_patience_is_raised(tiny, capsys):
    stopping = [CALLBACKS, "EarlyStopping", f"{CALLBACKS}.monitor", "val/loss", f"{CALLBACKS}.min_delta", "9"]
    assert fit(tiny, *stopping, f"{CALLBACKS}.patience", "1", "--trainer.max_epochs", "5") == 0
    metrics = Path("run/metrics.csv").read_bytes()
    for _ in range(2):
        assert main(["fit", "--resume", "run"]) == 0
        assert "early stopping ended this run; raise --trainer.callbacks.patience" in capsys.readouterr().out
        assert Path("run/metrics.csv").read_bytes() == metrics
    assert main(["fit", "--resume", "run", f"{CALLBACKS}.patience", "3"]) == 0
    assert "did not improve in the last 3 records" in capsys.readouterr().out
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 4 * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit",
    ["max_epochs", *(pytest.param(one, marks=pytest.mark.slow) for one in ("max_steps", "limit_train_batches"))],
)
def test_a_training_of_nothing_is_refused(tiny, capsys, limit):
    for command in ("fit", "repeat", "sweep"):
        assert main([command, *tiny, f"--trainer.{limit}", "0", "--run_dir", "run"]) == 2
        assert capsys.readouterr().err.startswith(f"error: --trainer.{limit} ")
        assert not Path("run").exists()


@pytest.mark.slow
def test_a_trial_of_one_batch_keeps_no_files(tiny, trained, capsys):
    assert fit(tiny, "--trainer.fast_dev_run", "true") == 0
    out = capsys.readouterr().out
    assert "fast_dev_run tries a few batches and keeps no files" in out
    assert not Path("run").exists()
    assert "test it" not in out
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    assert main(["fit", "--resume", str(trained), "--trainer.fast_dev_run", "true"]) == 2
    assert before == {file: file.stat().st_mtime_ns for file in trained.rglob("*")}


@pytest.mark.slow
def test_profiler_prints_its_table(tiny, capsys):
    assert fit(tiny, "--trainer.profiler", "simple") == 0
    assert "run_training_epoch" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "--data.held_out val --trainer.limit_val_batches 0",
        pytest.param("--data.held_out test --data.val_size 20", marks=pytest.mark.slow),
    ],
)
def test_option_without_effect_gets_a_line(tiny, capsys, words):
    assert main(["fit", *tiny, *SHORT[:2], "--trainer.log_every_n_steps", "1", *words.split(), "--run_dir", "run"]) == 0
    assert sum(line.startswith("note: ") for line in capsys.readouterr().out.splitlines()) == 1


def test_every_option_without_effect_gets_its_line(tiny, capsys):
    words = "--model.temperature 2 --model.stem_stride 2 --model.stem_bias false --model.hidden 0 --model.dropout 0.1"
    words += " --model.global_pool max --trainer.min_steps 2 --trainer.limit_test_batches 1 --model.warmup 0.3"
    words += " --model.momentum 0.5 --data.num_workers 8 --data.url http://127.0.0.1:9"
    assert fit(tiny, *words.split()) == 0
    named = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert {*named} == {word for word in words.split() if word.startswith("--")} - {"--model.hidden"}


@pytest.mark.slow
def test_a_split_that_the_folder_has_is_not_drawn(image_folder, capsys):
    data = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.held_out", "val"]
    drawn = ["--data.val_size", "5", "--data.split_seed", "5", "--data.num_workers", "2"]
    options = [*data, *drawn, "--model.widths", "[4,4,8,8,8]", "--trainer.max_steps", "1"]
    assert main(["fit", *options, "--run_dir", "run"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: --data.num_workers has no effect: the images are in memory",
        "note: --data.val_size has no effect: the data has a part val",
        "note: --data.split_seed has no effect: the data has a part val",
    ]


@pytest.mark.slow
def test_an_option_with_an_effect_gets_no_line(tiny, capsys):
    """Five blocks that pool without ``pool`` in their order leave 32x32 pixels to the last pooling."""
    words = "--model.order [activation,sum,norm] --model.pools [true,true,true,true,true] --model.global_pool max"
    assert fit(tiny, *words.split(), "--trainer.max_steps", "1") == 0
    assert "note: " not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_stopped_run_says_how_it_is_resumed(tiny, capsys, monkeypatch, sent, status):
    monkeypatch.setattr(Throughput, "on_train_batch_end", lambda *_: os.kill(os.getpid(), sent))
    assert main(["fit", *tiny, *SHORT, "--run_dir", "a run"]) == status
    assert load_checkpoint(Path("a run/checkpoints/last.ckpt"))["global_step"] == 1
    out, err = capsys.readouterr()
    assert "resume it: python -m lightning_cifar fit --resume 'a run'" in out
    assert err.splitlines()[-1] == "interrupted"


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
def test_run_stopped_again_while_it_ends_says_how_it_is_resumed(tiny, capsys, monkeypatch):
    """The second Ctrl-C comes when the first has ended training, and the last figure is drawn."""
    monkeypatch.setattr(Throughput, "on_train_batch_end", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr(RunRecord, "on_exception", lambda *_: signal.default_int_handler(signal.SIGINT, None))
    assert main(["fit", *tiny, *SHORT, "--run_dir", "run"]) == 130
    assert "resume it: python -m lightning_cifar fit --resume run" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
@pytest.mark.parametrize("option", ["--trainer.enable_checkpointing=false", "--trainer.fast_dev_run=3"])
def test_stopped_run_without_checkpoints_cannot_be_resumed(tiny, capsys, monkeypatch, option):
    monkeypatch.setattr(Throughput, "on_train_batch_end", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert main(["fit", *tiny, *SHORT, "--run_dir", "run", option]) == 130
    out = capsys.readouterr().out
    assert "resume it" not in out
    assert ("if training stops, it starts from the beginning" in out) == ("checkpointing" in option)


@pytest.mark.slow
def test_learning_rate_finder_runs_before_training(tiny):
    assert fit(tiny, CALLBACKS, "LearningRateFinder", f"{CALLBACKS}.num_training_steps", "5") == 0
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 3


@pytest.mark.slow
def test_callback_that_does_not_suit_the_model_is_refused_in_one_line(tiny, capsys):
    assert fit(tiny, CALLBACKS, "BackboneFinetuning") == 2
    assert "cannot be used here" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_function_of_the_user_that_takes_too_few_arguments_is_one_line(tiny, capsys, monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("short.py").write_text("def start(trainer):\n    pass\n")
    options = [CALLBACKS, "LambdaCallback", f"{CALLBACKS}.on_train_start", "short.start", "--trust_config", "short"]
    assert fit(tiny, *options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: the Trainer cannot call a hook: start() takes 1 positional argument")


@pytest.mark.parametrize("callback", ["RichProgressBar", "RichModelSummary"])
def test_missing_package_of_a_callback_is_named(tiny, capsys, monkeypatch, callback):
    from lightning.pytorch.callbacks import rich_model_summary
    from lightning.pytorch.callbacks.progress import rich_progress

    for module in (rich_model_summary, rich_progress):
        monkeypatch.setattr(module, "_RICH_AVAILABLE", False)
    assert fit(tiny, CALLBACKS, callback) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rich" in line
    assert "Namespace" not in line


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--trainer.precision fp16", "one of auto, 32-true, bf16-mixed"),
        ("--model.kernel_sizes 16,32", "write a list, [16,32]"),
        ("--data.sizes [a,b]", "--data.sizes ['a', 'b']: expected a list of int or null"),
        ("--model.class_names [[1]]", "--model.class_names [[1]]: expected a list of str or null"),
        ("--model.replay maybe", "one of true, false, auto"),
        ("--data.val_size many", "--data.val_size many: expected int or null"),
        ("--trainer.logger TensorBoardLogger", "TensorBoardLogger: add --trainer.logger.save_dir"),
        ("--trainer.callbacks ModelCheckpoint --trainer.callbacks.save_last true", "leave save_last out"),
        ("--trainer.callbacks ModelCheckpoint --trainer.callbacks.filename last", "name another filename or dirpath"),
        ("--trainer.callbacks EarlyStoping", "no such class; did you mean EarlyStopping?"),
        ("--trainer.logger CSVLogger --trainer.logger.sav x", "--trainer.logger.sav: the class has no such argument"),
        ("--trainer.callbacks EarlyStopping --trainer.callbacks.patience x", "callbacks.patience x: expected int"),
        (
            "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor x --trainer.callbacks.patience 1.5",
            "--trainer.callbacks.patience 1.5: expected int",
        ),
        (
            "--trainer.callbacks BackboneFinetuning --trainer.callbacks.lambda_func 3",
            "--trainer.callbacks.lambda_func: 3: no such class",
        ),
        ("--config callbacks.yaml", "--trainer.callbacks.save_top_k many: expected int"),
        (
            "--trainer.callbacks ModelCheckpoint --trainer.callbacks.save_last x",
            "x: one of true, false, link",
        ),
        ("--trainer.callbacks EarlyStopping --trainer.callbacks.divergence_threshold x", "x: expected float or null"),
        (
            "--trainer.callbacks ModelCheckpoint --trainer.callbacks.train_time_interval 3",
            "--trainer.callbacks.train_time_interval 3: expected hours:minutes:seconds or null",
        ),
        (
            "--trainer.callbacks GradientAccumulationScheduler --trainer.callbacks.scheduling {0:2}",
            "--trainer.callbacks.scheduling {0:2}: expected a mapping, such as '{0: 2}'",
        ),
        (
            "--trainer.callbacks GradientAccumulationScheduler --trainer.callbacks.scheduling {0:2,1:4}",
            "--trainer.callbacks.scheduling: the key '0:2' is no whole number: expected a mapping, such as '{0: 2}'",
        ),
        (
            "--trainer.logger CSVLogger --trainer.logger.flush_logs_every_n_steps y",
            "--trainer.logger.flush_logs_every_n_steps y: expected int",
        ),
        ("--trainer.accumulate_grad_batches 9999999999999999999", "accumulate_grad_batches must be below 2**63"),
        ("--trainer.accumulate_grad_batches 0", "--trainer.accumulate_grad_batches must be at least 1, got 0"),
        ("--trainer.check_val_every_n_epoch 0", "--trainer.check_val_every_n_epoch must be at least 1, got 0"),
        ("--trainer.val_check_interval 0", "--trainer.val_check_interval must be above 0, got 0"),
        ("--trainer.gradient_clip_val -1", "--trainer.gradient_clip_val must be at least 0, got -1"),
        ("--trainer.limit_train_batches 0", "--trainer.limit_train_batches must be above 0, got 0"),
        ("--trainer.max_epochs 0", "trains nothing: set at least 1, or -1 for no limit"),
        ("--trainer.max_steps 0", "trains nothing: set at least 1, or -1 for no limit"),
        ("--trainer.max_time 5", "--trainer.max_time 5: write days, hours, minutes and seconds, such as 00:01:30:00"),
        ("--trainer.max_time 00:00:00:00", "--trainer.max_time 00:00:00:00 trains nothing: set at least a second"),
        (
            "--trainer.overfit_batches 0.1",
            "--trainer.overfit_batches 0.1 is less than one of 1 validation batch: name a number of batches, such as 1",
        ),
        ("--model.learning_rate .inf", "--model.learning_rate must be finite, got inf"),
        ("--model.mean [125,120,110]", "--model.mean must be in [0, 1], got 125"),
        ("--model.std [60,.nan,60]", "--model.std must be in [0, 1], got 60"),
        ("--seed_everything -3", "--seed_everything must be in [0, 4294967295], got -3"),
        ("--seed_everything false", "--seed_everything must be a whole number, got False"),
        ("--seed_everything abc", "--seed_everything abc: expected bool or int"),
        ("--trainer.num_nodes 2", "no launcher started this process"),
        ("--trainer.devices [0,1]", "there is no GPU; --trainer.devices 2 starts as many processes"),
        ("--data.in_memory y", "--data.in_memory y: one of true, false, auto"),
        ("--trainer.devices 0", "--trainer.devices 0: there is no GPU; set 1 to"),
        ("--trainer.devices -1 --trainer.accelerator cpu", "--trainer.devices -1: there is no GPU; set 1 to"),
        ("--trainer.devices many", "--trainer.devices many: there is no GPU; set 1 to"),
        ("--trainer.devices 0,2,3, --trainer.accelerator cpu", "--trainer.devices 3 starts as many processes"),
    ],
)
def test_value_of_another_type_gets_one_short_line(tiny, capsys, words, answer):
    Path("callbacks.yaml").write_text(
        "trainer: {callbacks: [{class_path: ModelCheckpoint, init_args: {save_top_k: many}}]}"
    )
    assert fit(tiny, *words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line
    assert len(line) < 250


def test_more_processes_than_a_machine_can_run_are_refused(tiny, capsys, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert fit(tiny, "--trainer.devices", "9", "--trainer.accelerator", "cpu") == 2
    assert capsys.readouterr().err == "error: --trainer.devices 9: there is no GPU; set 1 to 8 processes\n"


@pytest.mark.parametrize("name", ["file:", "s3://bucket/run", "a\udcff"])
def test_run_directory_that_cannot_be_used_is_refused(tiny, tmp_path, capsys, name):
    before = list(tmp_path.iterdir())
    assert main(["fit", *tiny, "--run_dir", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_printed_commands_can_be_typed(tiny, capsys):
    assert main(["fit", *tiny, *SHORT, "--run_dir=--a b"]) == 0
    assert "test --ckpt_path './--a b/checkpoints/best.ckpt'" in capsys.readouterr().out


@pytest.mark.slow
def test_exit_status_of_a_callback_is_kept(tiny, monkeypatch):
    def leave(*_: object) -> None:
        raise SystemExit(7)

    monkeypatch.setattr(Throughput, "on_train_batch_end", leave)
    assert fit(tiny) == 7


@pytest.mark.slow
def test_a_last_batch_of_one_image_is_explained(tiny, capsys):
    """Batch norm after the last pooling would have one value of each channel; 33 images are trained on."""
    sizes = ["--data.val_size", "1404", "--data.batch_size", "32", "--data.eval_batch_size", "10"]
    assert fit(tiny, "--model.order", "[pool,norm,activation,sum]", *sizes) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a training batch of one image: batch norm needs more values of each channel; set ")


@pytest.mark.slow
def test_an_average_that_would_never_begin_is_refused(tiny, capsys):
    average = [CALLBACKS, "EMAWeightAveraging", f"{CALLBACKS}.update_starting_at_step"]
    grouped = [f"{CALLBACKS}+", "GradientAccumulationScheduler", f"{CALLBACKS}.scheduling", "{0: 3}"]
    for start, last, further in (("1,000", 3, []), ("2", 1, grouped)):
        assert fit(tiny, *average, start.replace(",", ""), *further) == 2
        words = f"update_starting_at_step {start}: training ends at step {last}; lower it"
        assert capsys.readouterr().err == f"error: {words}\n"
        assert not Path("run").exists()
