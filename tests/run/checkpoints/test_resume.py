"""A resumed run is bit-identical to an uninterrupted one, apart from its times."""

import csv
import json
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
import yaml

from lightning_cifar import CIFAR10DataModule, ImageClassifier, LastCheckpoint, Throughput, main
from lightning_cifar.run.checkpoints import last_checkpoint
from lightning_cifar.run.directory import lock
from lightning_cifar.run.settings.precedence import layer
from lightning_cifar.train.checkpoint import load_checkpoint
from tests.trainer import make_quiet_trainer

SMALL = ["--data.dataset", "digits", "--data.batch_size", "40", "--model.widths", "[4,4,8,8,8]"]
SMALL += ["--trainer.limit_train_batches", "4", "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1"]
SMALL += ["--trainer.precision", "32-true"]
OFTEN = ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0"]
ALIVE = ["--model.gate_rate", "0.002"]  # at the recipes' gate rate, the gates of such small batches become zero
EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"
GROUPS = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
CONFIGURATIONS = {
    "Adam, dropout, test set as held-out split": ["--recipe", "report"],
    "Muon, schedule, alternating flips": ["--recipe", "fast94", *ALIVE],
    "validation within an epoch": ["--recipe", "report", "--data.held_out", "val", "--trainer.val_check_interval", "2"],
    "balanced classes, class weights": [
        "--recipe",
        "report",
        *["--data.balanced", "true", "--model.class_weights", "balanced"],
    ],
    "accumulated gradients": ["--recipe", "report", "--trainer.accumulate_grad_batches", "2"],
    "max_steps within an epoch": ["--recipe", "fast", "--trainer.max_steps", "10", *ALIVE],
    "max_steps within an epoch, validation": [
        "--recipe",
        "report",
        "--data.held_out",
        "val",
        "--trainer.max_steps",
        "10",
    ],
    "image sizes that change within an epoch": ["--recipe", "fast", "--data.sizes", "[16,24,32]", *ALIVE],
    "a wide ResNet, AdamW, cosine": [
        "--recipe",
        "report",
        *["--model.network", "wide_resnet10_1", "--data.batch_size", "8"],
        *["--model.optimizer", "adamw", "--model.schedule", "cosine", "--model.warmup", "0.3"],
    ],
    "a network of torchvision, one cycle": [
        "--recipe",
        "report",
        "--model.network",
        "shufflenet_v2_x0_5",
        "--model.schedule",
        "one_cycle",
        "--model.optimizer",
        "NAdam",
    ],
    "averaged weights": ["--recipe", "report", "--trainer.callbacks+", EMA],
    "gradients accumulated in other numbers by epoch": [
        "--recipe",
        "report",
        *["--model.schedule", "cosine", "--trainer.callbacks+", GROUPS, "--trainer.callbacks.scheduling", "{1: 2}"],
    ],
}


def read_rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as opened:
        return [
            {name: value for name, value in row.items() if value and not name.startswith("time/")}
            for row in csv.DictReader(opened)
        ]


def assert_same(found: object, expected: object, path: str = "") -> None:
    if path.endswith(
        (".Throughput", ".RunRecord", ".current_score")
    ):  # times; a score that ModelCheckpoint does not restore
        return
    assert type(found) is type(expected), path
    if isinstance(found, dict):
        assert found.keys() == expected.keys(), path
        for key in found:
            assert_same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(found, torch.Tensor):
        assert torch.equal(found, expected), path
    else:
        assert found == expected, path


# Options that change what a resumed run must restore; each seed draws five.
DRAWN = [
    *("--data.flip true", "--data.crop_padding 2", "--data.cutout 8", "--data.transform rand_augment"),
    *("--data.sizes [16,32]", "--data.drop_last true", "--data.balanced true", "--data.held_out val"),
    *("--model.optimizer muon", "--model.optimizer RMSprop", "--model.schedule triangular", "--model.mixup 0.5"),
    *("--model.cutmix 0.5", "--model.class_weights balanced", "--model.members 2", "--model.flip_equivariant true"),
    *("--model.gate softmax", "--model.norm_scale false", "--model.dirac true", "--model.label_smoothing 0.2"),
    *("--trainer.accumulate_grad_batches 2", "--trainer.gradient_clip_val 0.1", "--trainer.val_check_interval 2"),
    *("--trainer.precision bf16-mixed", "--trainer.max_steps 10", "--trainer.check_val_every_n_epoch 2"),
    *(f"--trainer.callbacks+ {EMA}", "--trainer.num_sanity_val_steps 2", "--data.eval_batch_size 7"),
]
QUICK = "Adam, dropout, test set as held-out split"
LONG = ("balanced classes", "accumulated gradients", "gradients accumulated", "max_steps", "a wide", "a network of")


def train_with_copies(args: list[str], run_dir: Path, monkeypatch) -> list[Path]:
    """Train in ``run_dir`` and return copies of the directory, one after each checkpoint."""
    copies = []
    save = LastCheckpoint.save

    def save_and_copy(callback: LastCheckpoint) -> None:
        save(callback)
        copies.append(run_dir.with_name(f"copy{len(copies)}"))
        shutil.copytree(run_dir, copies[-1])

    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "save", save_and_copy)
        assert main(["fit", *args, "--run_dir", str(run_dir)]) == 0
    return copies


def resume(copy: Path, run_dir: Path) -> dict:
    """Replace ``run_dir`` by ``copy``, resume the run, and return its last checkpoint."""
    shutil.rmtree(run_dir)
    shutil.copytree(copy, run_dir)
    assert main(["fit", "--resume", str(run_dir)]) == 0
    return load_checkpoint(run_dir / "checkpoints/last.ckpt")


@pytest.mark.parametrize(
    "name",
    [
        QUICK,
        *(
            pytest.param(name, marks=pytest.mark.long if name.startswith(LONG) else pytest.mark.slow)
            for name in CONFIGURATIONS
            if name != QUICK
        ),
    ],
)
def test_resumed_run_equals_uninterrupted_run(name, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    args = CONFIGURATIONS[name]
    copies = train_with_copies([*args[:2], *SMALL, *OFTEN, *args[2:]], run_dir, monkeypatch)
    expected, expected_rows = load_checkpoint(run_dir / "checkpoints/last.ckpt"), read_rows(run_dir)
    assert len(copies) >= 6
    for copy in copies[3:-1:5]:  # at the end of an epoch and within one
        assert_same(resume(copy, run_dir), expected)
        assert read_rows(run_dir) == expected_rows
        lines = (run_dir / "metrics.csv").read_bytes().splitlines(keepends=True)
        assert {line[-2:] for line in lines} == {b"\r\n"}  # also in lines from before the resume


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), *range(1, 12)])
@pytest.mark.long
def test_runs_of_drawn_options_resume_to_the_bit(seed, tmp_path, monkeypatch):
    """From any checkpoint; the draw is named by the options in config.yaml."""
    run_dir, draw = tmp_path / "run", random.Random(seed)
    options = " ".join(draw.sample(DRAWN, 5)).split()
    copies = train_with_copies(["--recipe", "report", *SMALL, *OFTEN, *options, *ALIVE], run_dir, monkeypatch)
    expected, expected_rows = load_checkpoint(run_dir / "checkpoints/last.ckpt"), read_rows(run_dir)
    for copy in draw.sample(copies[:-1], 2):
        assert_same(resume(copy, run_dir), expected)
        assert read_rows(run_dir) == expected_rows


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["--recipe", "report"], marks=pytest.mark.long),
        pytest.param(["--recipe", "fast", "--trainer.max_steps", "10", *ALIVE], marks=pytest.mark.slow),
    ],
)
def test_resume_after_an_epoch_without_a_checkpoint_equals_uninterrupted_run(tmp_path, monkeypatch, args):
    """The rows of metrics.csv from after the checkpoint are written again."""
    run_dir, copy = tmp_path / "run", tmp_path / "copy"
    after_epoch = LastCheckpoint.after_epoch

    def skip_epoch_2(callback: LastCheckpoint) -> None:
        epoch = callback.trainer.current_epoch
        patched.setattr(last_checkpoint, "EPOCH_SECONDS", 0 if epoch == 1 else 1000)
        after_epoch(callback)
        if epoch == 2:
            shutil.copytree(run_dir, copy)

    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "after_epoch", skip_epoch_2)
        assert main(["fit", *args[:2], *SMALL, *args[2:], "--run_dir", str(run_dir)]) == 0
    expected, expected_rows = load_checkpoint(run_dir / "checkpoints/last.ckpt"), read_rows(run_dir)
    stored = load_checkpoint(copy / "checkpoints/last.ckpt")
    assert stored["global_step"] == 4
    assert len((copy / "metrics.csv").read_bytes().splitlines()) > stored["callbacks"]["LastCheckpoint"]["lines"]
    assert_same(resume(copy, run_dir), expected)
    assert read_rows(run_dir) == expected_rows


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["report", "fast94", "accurate"])
def test_resumed_run_equals_uninterrupted_run_on_a_gpu(recipe, tmp_path, monkeypatch):
    """With batches of 100 images, in the precision of the recipe."""
    run_dir = tmp_path / "run"
    options = ["--data.dataset", "digits", "--data.batch_size", "100", "--model.widths", "[8,8,16,16,16]"]
    options += ["--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "5", "--trainer.accelerator", "gpu"]
    args = ["--recipe", recipe, *options, *OFTEN, "--trainer.deterministic", "true"]
    copies = train_with_copies(args, run_dir, monkeypatch)
    expected = load_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]
    for copy in copies[len(copies) // 3], copies[-3]:
        found = resume(copy, run_dir)["state_dict"]
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_training_from_the_best_checkpoint_begins_with_the_next_epoch(tmp_path):
    """With max_steps, the end of its epoch was logged once more, and all steps were counted one too high."""
    args = ["--recipe", "report", *SMALL, "--data.held_out", "val", *ALIVE]
    assert main(["fit", *args, "--trainer.max_steps", "8", "--run_dir", str(tmp_path / "first")]) == 0
    best = tmp_path / "first/checkpoints/best.ckpt"
    further = ["--ckpt_path", str(best), "--trainer.max_steps", "12", "--run_dir", str(tmp_path / "second")]
    assert main(["fit", *args, *further]) == 0
    steps = [int(row["step"]) for row in read_rows(tmp_path / "second") if "train/loss_step" in row]
    assert steps == [*range(load_checkpoint(best)["global_step"], 12)]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["every_n_train_steps 4", "save_on_train_epoch_end false"])
def test_checkpoints_of_hooks_after_the_last_step_of_an_epoch_resume_to_the_bit(tmp_path, when):
    """From `on_train_batch_end` and `on_validation_end`; Lightning ended the epoch again, or left out its hooks."""
    args = ["--recipe", "report", *SMALL, "--data.held_out", "val", *ALIVE, "--trainer.max_steps", "12"]
    args += ["--trainer.callbacks", "ModelCheckpoint", *f"--trainer.callbacks.{when}".split()]
    args += ["--trainer.callbacks.save_top_k", "-1", "--trainer.callbacks.dirpath"]
    assert main(["fit", *args, str(tmp_path / "saved"), "--run_dir", str(tmp_path / "first")]) == 0
    (saved,) = (tmp_path / "saved").glob("*step=4.ckpt")
    further = ["--ckpt_path", str(saved), "--run_dir", str(tmp_path / "second")]
    assert main(["fit", *args, str(tmp_path / "others"), *further]) == 0
    found, expected = (load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("second", "first"))
    assert_same(found["state_dict"], expected["state_dict"])
    steps = [int(row["step"]) for row in read_rows(tmp_path / "second") if "train/loss_step" in row]
    assert steps == [*range(4, 12)]


@pytest.mark.slow
def test_training_that_ended_at_a_validation_within_an_epoch_counts_no_step_twice(tmp_path):
    args = ["--recipe", "report", *SMALL, "--data.held_out", "val", *ALIVE, "--trainer.val_check_interval", "2"]
    run_dir = tmp_path / "run"
    assert main(["fit", *args, "--trainer.max_steps", "6", "--run_dir", str(run_dir)]) == 0
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_steps", "12"]) == 0
    assert [int(row["step"]) for row in read_rows(run_dir) if "train/loss_step" in row] == [*range(12)]


@pytest.mark.slow
def test_resuming_a_finished_run_trains_nothing(trained, tmp_path, capsys):
    """It draws the figure, which a run that was killed after its last checkpoint lacks, and keeps the numbers."""
    run_dir = shutil.copytree(trained, tmp_path / "run")
    before = json.loads((run_dir / "run.json").read_text())
    (run_dir / "curves.png").unlink()
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert "nothing left to train: this run is complete; raise --trainer.max_epochs" in capsys.readouterr().out
    record = json.loads((run_dir / "run.json").read_text())
    assert (record["timings"]["epochs"], record["metrics"]) == (1, before["metrics"])
    assert record["metrics"]
    assert (run_dir / "curves.png").exists()
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "2"]) == 0
    out = capsys.readouterr().out
    assert "changed: --trainer.max_epochs 2, before 1" in out
    assert "2/2" in out


@pytest.mark.slow
def test_resume_without_a_checkpoint_starts_from_the_beginning(trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    shutil.copy(trained / "config.yaml", run_dir)
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert "no checkpoint was written yet" in capsys.readouterr().out
    found, expected = (load_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (run_dir, trained))
    assert_same(found, expected)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_is_resumed_and_stopped(trained, tmp_path, capsys, monkeypatch):
    """Before it has logged anything, so that nothing is left of the rows of the killed run."""
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "metrics.csv"):
        shutil.copy(trained / name, run_dir)
    (run_dir / "checkpoints/best.ckpt").touch()
    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_end", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert main(["fit", "--resume", str(run_dir), "--trainer.log_every_n_steps", "2"]) == 143
    assert f"there is no last.ckpt, and {run_dir}/checkpoints/best.ckpt will be replaced" in capsys.readouterr().out
    assert load_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == 1
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert read_rows(run_dir) == read_rows(trained)
    assert load_checkpoint(run_dir / "checkpoints/best.ckpt")


@pytest.mark.slow
def test_checkpoints_that_were_removed_are_missed(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints")
    assert main(["fit", "--resume", str(run_dir)]) == 2
    assert "has no last.ckpt, but the run has trained 2 steps: put it back" in capsys.readouterr().err
    assert (run_dir / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_a_run_without_checkpoints_starts_again(tiny, tmp_path, capsys):
    args = ["fit", *tiny, "--trainer.limit_train_batches", "1", "--trainer.log_every_n_steps", "1"]
    run_dir = str(tmp_path / "run")
    assert main([*args, "--trainer.enable_checkpointing", "false", "--run_dir", run_dir]) == 0
    assert main(["fit", "--resume", run_dir]) == 0
    assert "no checkpoint was written yet: training starts from the beginning" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_finder_has_found_is_kept_without_it(tiny, tmp_path, capsys):
    """The configuration has the usual rate until then; that is no edit of the user's."""
    callbacks = "--trainer.callbacks"
    finder = [callbacks, "LearningRateFinder", f"{callbacks}.num_training_steps", "5"]
    args = ["fit", *tiny, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    run_dir = tmp_path / "run"
    assert main([*args, "--trainer.log_every_n_steps", "1", *finder, "--run_dir", str(run_dir)]) == 0
    found = load_checkpoint(run_dir / "checkpoints/last.ckpt")["hyper_parameters"]["learning_rate"]
    for epochs in ("2", "3"):
        other = [callbacks, "lightning_cifar.LastCheckpoint", f"{callbacks}.minutes", "1"]
        assert main(["fit", "--resume", str(run_dir), *other, "--trainer.max_epochs", epochs]) == 0, (
            capsys.readouterr().err
        )
        assert yaml.safe_load((run_dir / "config.yaml").read_text())["model"]["learning_rate"] == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "option", "value"),
    [
        ("model", "learning_rate", 0.5),
        ("data", "split_seed", 7),
        ("model", "widths", [2] * 5),
        ("data", "val_size", None),
    ],
)
def test_an_edited_configuration_is_refused(trained, tmp_path, capsys, group, option, value):
    """The rate would have no effect, and the seed would validate on images that were trained on."""
    run_dir = shutil.copytree(trained, tmp_path / "run")
    settings = yaml.safe_load((run_dir / "config.yaml").read_text())
    trained_with, settings[group][option] = settings[group][option], value
    (run_dir / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "2"]) == 2
    words = f"config.yaml has {group}.{option} {value}, but the run was trained with {trained_with}: restore it"
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_run_directory_in_use_is_refused(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    other = lock(run_dir)
    assert other is not None
    assert main(["fit", "--resume", str(run_dir)]) == 2
    assert f"error: {run_dir} is in use: another process trains in it" in capsys.readouterr().err
    other.release()
    assert main(["fit", "--resume", str(run_dir)]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*; trying the checkpoint before")
def test_resume_falls_back_to_the_previous_checkpoint(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    checkpoints = run_dir / "checkpoints"
    shutil.copy(checkpoints / "last.ckpt", checkpoints / "previous.ckpt")
    (checkpoints / "last.ckpt").write_bytes(b"half")
    assert main(["fit", "--resume", str(run_dir)]) == 0
    out, err = capsys.readouterr()
    assert f"warning: {checkpoints / 'last.ckpt'} is damaged" in err
    assert f"resuming from {checkpoints / 'previous.ckpt'}" in out
    for name in ("last.ckpt", "previous.ckpt"):
        (checkpoints / name).write_bytes(b"half")
    assert main(["fit", "--resume", str(run_dir)]) == 2
    assert "has no readable checkpoint" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "restart", ["SLURM_RESTART_COUNT", pytest.param("TORCHELASTIC_RESTART_COUNT", marks=pytest.mark.slow)]
)
def test_restarted_job_resumes(trained, tmp_path, capsys, monkeypatch, restart, tiny):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setenv(restart, "1")
    assert main(["fit", *tiny, "--run_dir", str(run_dir)]) == 0
    assert "resuming from" in capsys.readouterr().out
    assert main(["fit", *tiny, "--run_dir", str(tmp_path / "new")]) == 0  # stopped before it wrote anything
    options = ["--wandb_checkpoints", "--trust_config", "mine"]
    assert layer(["fit", *tiny, "--run_dir", str(run_dir), *options])[-len(options) :] == options


@pytest.mark.slow
def test_a_job_that_cannot_be_restarted_gets_a_line(tiny, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    for options in ([], ["--run_dir", "run"]):
        assert main(["fit", *tiny, *options]) == 0
        assert ("note: if SLURM restarts this job" in capsys.readouterr().out) == (not options)


@pytest.mark.slow
def test_second_fit_of_a_trainer_saves_as_often_as_the_first(monkeypatch):
    saves = []
    monkeypatch.setattr(LastCheckpoint, "save", lambda callback: saves.append(1))
    data = CIFAR10DataModule("digits", batch_size=500)
    short = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "log_every_n_steps": 1}
    trainer = make_quiet_trainer(enable_checkpointing=True, callbacks=[LastCheckpoint()], **short)
    (callback,) = (other for other in trainer.callbacks if isinstance(other, LastCheckpoint))
    for epochs in (1, 2):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(ImageClassifier(widths=[4, 4, 8, 8, 8]), data)
        callback.stop_signal = signal.SIGINT  # as if the first had been resumed and stopped
        callback.stored = {"random": {}, "metrics": {"held_out_accuracy": {"correct": torch.tensor(9)}}}
    assert len(saves) == 2


@pytest.mark.slow
def test_resume_does_not_need_the_initial_checkpoint(trained, tmp_path, tiny):
    first = tmp_path / "first.ckpt"
    shutil.copy(trained / "checkpoints/last.ckpt", first)
    run_dir = tmp_path / "run"
    assert main(["fit", *tiny, "--ckpt_path", str(first), "--trainer.max_epochs", "2", "--run_dir", str(run_dir)]) == 0
    first.unlink()
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "3"]) == 0
    assert load_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == 3 * 2


@pytest.mark.slow
def test_fit_runs_in_a_thread(tiny, tmp_path):
    """Signal handlers cannot be set outside the main thread."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(main(["fit", *tiny, "--run_dir", str(tmp_path / "run")])))
    thread.start()
    thread.join()
    assert ended == [0]
