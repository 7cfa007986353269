"""Training that is killed, stopped, starved or fed nonsense: what is lost, and that it goes on to the same weights."""

import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from harm import Trap

from lightning_cifar.run.last_checkpoint import LastCheckpoint
from lightning_cifar.train.checkpoint import load_checkpoint

pytestmark = pytest.mark.fault

EPOCHS, STEPS = 8, 4  # in all, and of each
TRAINING = ["fit", "--recipe", "report", "--data.dataset", "digits", "--data.batch_size", "40", "--data.held_out"]
TRAINING += ["val", "--trainer.limit_train_batches", str(STEPS), "--trainer.limit_val_batches", "1"]
TRAINING += ["--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", str(EPOCHS), "--trainer.precision", "32-true"]
TRAINING += ["--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"]
TRAINING += ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0", "--run_dir"]


def rows(run_dir: Path) -> list[dict[str, str]]:
    """Of metrics.csv, times aside."""
    with (run_dir / "metrics.csv").open(newline="") as opened:
        return [
            {name: value for name, value in row.items() if value and not name.startswith("time/")}
            for row in csv.DictReader(opened)
        ]


def state(run_dir: Path) -> dict:
    return load_checkpoint(run_dir / "checkpoints/last.ckpt")


def assert_same(run_dir: Path, control: Path) -> None:
    """Weights, optimiser and numbers, to the bit."""
    ours, theirs = state(run_dir), state(control)
    assert ours["global_step"] == theirs["global_step"] == EPOCHS * STEPS
    assert all(torch.equal(value, ours["state_dict"][name]) for name, value in theirs["state_dict"].items())
    for one, other in zip(ours["optimizer_states"], theirs["optimizer_states"], strict=True):
        for key, values in other["state"].items():
            assert all(torch.equal(value, one["state"][key][name]) for name, value in values.items())
    assert rows(run_dir) == rows(control)


@pytest.fixture(scope="module")
def control(tmp_path_factory) -> Path:
    """The run that nothing happened to."""
    from lightning_cifar import main

    run_dir = tmp_path_factory.mktemp("control") / "run"
    torch.set_num_threads(1)
    assert main([*TRAINING, str(run_dir)]) == 0
    return run_dir


def note_steps(file: Path, trap: Trap | None) -> None:
    """In the child: keeps the number of the last step that was done, and sets a trap."""
    after_step, after_epoch = LastCheckpoint.after_step, LastCheckpoint.after_epoch

    def noting(method: Callable) -> Callable:
        def noted(callback: LastCheckpoint, *args: object) -> None:
            file.write_text(str(callback.trainer.global_step))
            method(callback, *args)

        return noted

    LastCheckpoint.after_step = noting(after_step)
    LastCheckpoint.after_epoch = noting(after_epoch)
    if trap:
        trap.set()


def arguments(run_dir: Path) -> list[str]:
    """To begin, or to go on."""
    return ["fit", "--resume", str(run_dir)] if (run_dir / "config.yaml").exists() else [*TRAINING, str(run_dir)]


def places() -> list[str]:
    shm = Path("/dev/shm")
    return ["disk", *(["memory"] if shm.is_dir() and shm.stat().st_dev != Path("/tmp").stat().st_dev else [])]


@pytest.mark.parametrize(
    ("times", "place"),
    [(2, "disk"), *(pytest.param(60, place, marks=pytest.mark.slow) for place in places())],
)
def test_killed_at_any_moment_it_goes_on(start, control, tmp_path, survived, times, place):
    """A third of the kills come within the writing of a checkpoint: before it is synced, or moved, or right after."""
    folder = tmp_path if place == "disk" else Path("/dev/shm") / f"lightning-cifar-{tmp_path.parent.name}-{times}"
    folder.mkdir(exist_ok=True)
    draw = random.Random(times)
    kills = writes = worst = finished = 0
    try:
        while kills < times:
            run_dir, steps = folder / f"run{finished}", folder / f"steps{finished}"
            while True:
                within = kills % 3 == 2
                function = draw.choice(["os:fsync", "os:replace"])
                trap = Trap(function, draw.randrange(40), signal.SIGKILL, draw.random() < 0.5) if within else None
                child = start(*arguments(run_dir), prepare=partial(note_steps, steps, trap if kills < times else None))
                if not within and kills < times:
                    child.process.join(draw.uniform(0.3, 4))
                    if child.process.is_alive():
                        child.kill()
                if child.wait() == 0:
                    break
                assert child.process.exitcode == -signal.SIGKILL, child.output.read_text()
                kills, writes = kills + 1, writes + within
                if steps.exists() and steps.read_text():
                    last = run_dir / "checkpoints/last.ckpt"
                    kept = last if last.exists() else run_dir / "checkpoints/previous.ckpt"
                    saved = load_checkpoint(kept)["global_step"] if kept.exists() else 0
                    worst = max(worst, int(steps.read_text()) - saved)
            assert_same(run_dir, control)
            finished += 1
    finally:
        if place != "disk":
            shutil.rmtree(folder)
    assert worst <= 1  # the step that was being saved
    survived(f"SIGKILL at random moments, on {place}", kills - writes, lost_steps=worst)
    survived(f"SIGKILL while a checkpoint is written, on {place}", writes, lost_steps=worst)


MOMENTS = {
    "set-up, before there is a directory": Trap("lightning_cifar.data.module:CIFAR10DataModule.setup"),
    "set-up": Trap("lightning_cifar.train.classifier:ImageClassifier.setup"),
    "training": Trap("lightning_cifar.train.classifier:ImageClassifier.training_step", 9),
    "the end of an epoch": Trap("lightning_cifar.train.classifier:ImageClassifier.training_step", 7, after=True),
    "validation": Trap("lightning_cifar.train.classifier:ImageClassifier.validation_step", 2),
    "saving": Trap("os:replace", 9),
}


QUICK = {("training", signal.SIGTERM)}
ALL = [(moment, number) for moment in MOMENTS for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize(
    ("moment", "number"),
    [pytest.param(*one, marks=[] if one in QUICK else pytest.mark.slow) for one in ALL],
)
def test_asked_to_end_it_does_and_goes_on(start, control, tmp_path, survived, moment, number):
    run_dir, trap = tmp_path / "run", MOMENTS[moment]
    trap = Trap(trap.function, trap.number, number, trap.after)
    child = start(*arguments(run_dir), prepare=trap.set)
    began = time.monotonic()
    assert child.wait() == 128 + number, child.output.read_text()
    assert time.monotonic() - began < 30
    assert "Traceback" not in child.output.read_text()
    assert start(*arguments(run_dir)).wait() == 0
    assert_same(run_dir, control)
    survived(f"{number.name} in {moment}", 1, lost_steps=0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_while_it_tests(start, control, tmp_path, survived, number):
    trap = Trap("lightning_cifar.train.classifier:ImageClassifier.test_step", signal=number)
    args = ["test", "--ckpt_path", control / "checkpoints/last.ckpt", "--run_dir"]
    child = start(*args, tmp_path / "test", prepare=trap.set)
    assert child.wait() == 128 + number, child.output.read_text()
    assert start(*args, tmp_path / "again").wait() == 0
    survived(f"{number.name} in test", 1, lost_steps=0)


@pytest.mark.slow
def test_asked_to_end_in_its_last_epoch_no_other_seed_is_begun(start, tiny, tmp_path):
    args = ["repeat", "--n", "2", *tiny, "--data.held_out", "val", "--run_dir", tmp_path / "run"]
    trap = Trap("lightning_cifar.train.classifier:ImageClassifier.validation_step", 1)  # 0 is the sanity check
    child = start(*args, prepare=trap.set)
    assert child.wait() == 143, child.output.read_text()
    assert (tmp_path / "run/seed0/checkpoints/last.ckpt").exists()
    assert not [*(tmp_path / "run").glob("seed*/test.json")]
    assert start(*args).wait() == 0
    assert len([*(tmp_path / "run").glob("seed*/test.json")]) == 2


def slurm(folder: Path, restarts: int) -> None:
    """In the child: a job of SLURM's, whose ``scontrol`` notes what it is asked for."""
    scontrol = folder / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {folder / 'asked'}\n")
    scontrol.chmod(0o755)
    os.environ.update(
        SLURM_JOB_ID="42", SLURM_NTASKS="1", SLURM_JOB_NAME="train", SLURM_PROCID="0", SLURM_LOCALID="0",
        SLURM_NODEID="0", SLURM_RESTART_COUNT=str(restarts), PATH=f"{folder}:{os.environ['PATH']}",
    )  # fmt: skip


def in_time_for_slurm(folder: Path) -> None:
    slurm(folder, restarts=0)
    Trap("lightning_cifar.train.classifier:ImageClassifier.training_step", 9, signal.SIGUSR1).set()


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_requeued_and_goes_on(start, control, tmp_path, survived):
    run_dir = tmp_path / "run"
    child = start(*TRAINING, run_dir, prepare=partial(in_time_for_slurm, tmp_path))
    assert child.wait() == 128 + signal.SIGUSR1, child.output.read_text()
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    child = start(*TRAINING, run_dir, prepare=partial(slurm, tmp_path, restarts=1))
    assert child.wait() == 0, child.output.read_text()
    assert_same(run_dir, control)
    survived("SIGUSR1 of SLURM, and its restart", 1, lost_steps=0)


def first_epoch(start, run_dir: Path) -> dict:
    """A run of which one epoch is trained; its checkpoint."""
    assert start(*TRAINING, run_dir, "--trainer.max_epochs", 1).wait() == 0
    return state(run_dir)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_files_that_cannot_grow(start, control, tmp_path, survived):
    run_dir = tmp_path / "run"
    before = first_epoch(start, run_dir)
    size = (run_dir / "checkpoints/last.ckpt").stat().st_size
    more = ["fit", "--resume", run_dir, "--trainer.max_epochs", EPOCHS]
    child = start(*more, prepare=partial(limit_files, size // 2))
    assert child.wait() == 1
    check_full(child.output.read_text(), "File too large", run_dir, before)
    assert start(*more).wait() == 0
    assert_same(run_dir, control)
    survived("a limit on the size of files", 1, lost_steps=0)


def check_full(output: str, reason: str, run_dir: Path, before: dict) -> None:
    (error,) = (line for line in output.splitlines() if line.startswith("error:"))
    assert f"{reason}: free some space; checkpoints are complete, and fit --resume continues" in error
    assert "Traceback" not in output
    checkpoints = run_dir / "checkpoints"
    kept = checkpoints / "last.ckpt" if (checkpoints / "last.ckpt").exists() else checkpoints / "previous.ckpt"
    assert load_checkpoint(kept)["global_step"] >= before["global_step"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk(start, control, small_disk, survived):
    run_dir = small_disk / "run"
    before = first_epoch(start, run_dir)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(bytes(free - 20_000))
    more = ["fit", "--resume", run_dir, "--trainer.max_epochs", EPOCHS]
    child = start(*more)
    assert child.wait() == 1, child.output.read_text()
    check_full(child.output.read_text(), "No space left on device", run_dir, before)
    (small_disk / "other").unlink()
    assert start(*more).wait() == 0
    assert_same(run_dir, control)
    survived("a full disk", 1, lost_steps=0)


def limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


@pytest.mark.slow
def test_too_little_memory(start, tmp_path, survived):
    args = ["fit", "--recipe", "report", "--data.dataset", "digits", "--data.batch_size", 1200, "--run_dir"]
    child = start(*args, tmp_path / "run", prepare=partial(limit_memory, 700 << 20))
    assert child.wait() == 1, child.output.read_text()
    (error,) = (line for line in child.output.read_text().splitlines() if line.startswith("error:"))
    assert error.startswith("error: out of memory: a lower --data.batch_size needs less in training")
    survived("too little memory", 1)


def set_environment(values: dict[str, str]) -> None:
    os.environ.update(values)


@pytest.mark.slow
def test_no_secret_is_kept(start, tmp_path, survived):
    canary = "c4n4ry" * 7
    secrets = partial(set_environment, {"WANDB_API_KEY": canary[:40], "SOME_SECRET_TOKEN": canary})
    run_dir = tmp_path / "run"
    args = [*TRAINING, run_dir, "--trainer.max_epochs", 1, "--wandb", "offline"]
    assert start(*args, prepare=secrets).wait() == 0
    tested = ["test", "--ckpt_path", run_dir / "checkpoints/last.ckpt", "--run_dir", tmp_path / "test"]
    assert start(*tested, prepare=secrets).wait() == 0
    files = [file for folder in (run_dir, tmp_path / "test") for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if canary[:40].encode() in file.read_bytes()] == []
    survived("a secret in the environment", 1)


def test_a_checkpoint_that_would_run_code(tmp_path, survived, capsys):
    from lightning_cifar import main

    class Harmful:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "harmed",)

    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": Harmful(), "hyper_parameters": {}}, file)
    assert main(["test", "--ckpt_path", str(file)]) == 2
    assert f"{file} is damaged or no checkpoint of this package" in capsys.readouterr().err
    assert not (tmp_path / "harmed").exists()
    survived("a checkpoint that would run code", 1)
