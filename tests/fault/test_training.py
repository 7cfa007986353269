"""Faults in training (kills, signals, full disks, little memory): the resumed run ends with the same weights."""

import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from lightning_cifar.run.checkpoints.last_checkpoint import LastCheckpoint
from lightning_cifar.train.checkpoint import load_checkpoint
from tests.children import Trap, set_environment
from tests.run.checkpoints.test_resume import read_rows
from tests.run.checkpoints.test_resume_faults import load_last

pytestmark = pytest.mark.fault

EPOCHS, STEPS = 8, 4  # STEPS per epoch
TRAINING = ["fit", "--recipe", "report", "--data.dataset", "digits", "--data.batch_size", "40", "--data.held_out"]
TRAINING += ["val", "--trainer.limit_train_batches", str(STEPS), "--trainer.limit_val_batches", "1"]
TRAINING += ["--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", str(EPOCHS), "--trainer.precision", "32-true"]
TRAINING += ["--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"]
TRAINING += ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0", "--run_dir"]


def assert_same(run_dir: Path, control: Path) -> None:
    """Check that weights, optimiser state and metrics are bit-identical."""
    found, expected = load_last(run_dir), load_last(control)
    assert found["global_step"] == expected["global_step"] == EPOCHS * STEPS
    assert all(torch.equal(value, found["state_dict"][name]) for name, value in expected["state_dict"].items())
    for optimizer, wanted in zip(found["optimizer_states"], expected["optimizer_states"], strict=True):
        for key, values in wanted["state"].items():
            assert all(torch.equal(value, optimizer["state"][key][name]) for name, value in values.items())
    assert read_rows(run_dir) == read_rows(control)


@pytest.fixture(scope="module")
def control(tmp_path_factory) -> Path:
    """Return the directory of the same run without a fault."""
    from lightning_cifar import main

    run_dir = tmp_path_factory.mktemp("control") / "run"
    torch.set_num_threads(1)
    assert main([*TRAINING, str(run_dir)]) == 0
    return run_dir


def write_steps(file: Path, trap: Trap | None) -> None:
    """In the child: write the number of each completed step to ``file``, and set a trap."""
    after_step, after_epoch = LastCheckpoint.after_step, LastCheckpoint.after_epoch

    def write_step_first(method: Callable) -> Callable:
        def wrapped(callback: LastCheckpoint, *args: object) -> None:
            file.write_text(str(callback.trainer.global_step))
            method(callback, *args)

        return wrapped

    LastCheckpoint.after_step = write_step_first(after_step)
    LastCheckpoint.after_epoch = write_step_first(after_epoch)
    if trap:
        trap.set()


def make_args(run_dir: Path) -> list[str]:
    """Return the arguments that start the run, or resume it if its directory exists."""
    return ["fit", "--resume", str(run_dir)] if (run_dir / "config.yaml").exists() else [*TRAINING, str(run_dir)]


def list_storage() -> list[str]:
    """Return "disk" and, if /dev/shm is another file system, "memory"."""
    shm = Path("/dev/shm")
    return ["disk", *(["memory"] if shm.is_dir() and shm.stat().st_dev != Path("/tmp").stat().st_dev else [])]


@pytest.mark.parametrize(
    ("times", "storage"),
    [
        pytest.param(2, "disk", marks=pytest.mark.slow),
        *(pytest.param(60, storage, marks=pytest.mark.long) for storage in list_storage()),
    ],
)
def test_run_killed_at_any_moment_resumes_exactly(start, control, tmp_path, record_survival, times, storage):
    """A third of the kills come while a checkpoint is written: before or after it is synced or renamed."""
    folder = tmp_path if storage == "disk" else Path("/dev/shm") / f"lightning-cifar-{tmp_path.parent.name}-{times}"
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
                child = start(*make_args(run_dir), prepare=partial(write_steps, steps, trap if kills < times else None))
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
                    newest = last if last.exists() else run_dir / "checkpoints/previous.ckpt"
                    saved = load_checkpoint(newest)["global_step"] if newest.exists() else 0
                    worst = max(worst, int(steps.read_text()) - saved)
            assert_same(run_dir, control)
            finished += 1
    finally:
        if storage != "disk":
            shutil.rmtree(folder)
    assert worst <= 1  # the step whose checkpoint was being written
    record_survival(f"SIGKILL at random moments, on {storage}", kills - writes, lost_steps=worst)
    record_survival(f"SIGKILL while a checkpoint is written, on {storage}", writes, lost_steps=worst)


MOMENTS = {
    "set-up, before there is a directory": Trap("lightning_cifar.data.module:CIFAR10DataModule.setup"),
    "set-up": Trap("lightning_cifar.train.classifier:ImageClassifier.setup"),
    "training": Trap("lightning_cifar.train.classifier:ImageClassifier.training_step", 9),
    "the end of an epoch": Trap("lightning_cifar.train.classifier:ImageClassifier.training_step", 7, after=True),
    "validation": Trap("lightning_cifar.train.classifier:ImageClassifier.validation_step", 2),
    "saving": Trap("os:replace", 9),
}
TRIED = {  # by .ci/run
    *((moment, signal.SIGTERM) for moment in ("set-up", "training", "saving")),
    ("validation", signal.SIGINT),
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(*pair, marks=pytest.mark.slow if pair in TRIED else pytest.mark.long)
        for pair in product(MOMENTS, (signal.SIGTERM, signal.SIGINT))
    ],
)
def test_signal_ends_the_run_which_resumes_exactly(start, control, tmp_path, record_survival, moment, number):
    run_dir, trap = tmp_path / "run", MOMENTS[moment]
    trap = Trap(trap.function, trap.number, number, trap.after)
    child = start(*make_args(run_dir), prepare=trap.set)
    assert child.wait() == 128 + number, child.output.read_text()
    assert "Traceback" not in child.output.read_text()
    assert start(*make_args(run_dir)).wait() == 0
    assert_same(run_dir, control)
    record_survival(f"{number.name} in {moment}", 1, lost_steps=0)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_test(start, control, tmp_path, record_survival, number):
    trap = Trap("lightning_cifar.train.classifier:ImageClassifier.test_step", signal=number)
    args = ["test", "--ckpt_path", control / "checkpoints/last.ckpt", "--run_dir"]
    child = start(*args, tmp_path / "test", prepare=trap.set)
    assert child.wait() == 128 + number, child.output.read_text()
    assert start(*args, tmp_path / "again").wait() == 0
    record_survival(f"{number.name} in test", 1, lost_steps=0)


@pytest.mark.long
def test_signal_in_the_last_epoch_of_a_seed_ends_repeat(start, tiny, tmp_path):
    args = ["repeat", "--n", "2", *tiny, "--data.held_out", "val", "--run_dir", tmp_path / "run"]
    trap = Trap("lightning_cifar.train.classifier:ImageClassifier.validation_step", 1)  # 0 is the sanity check
    child = start(*args, prepare=trap.set)
    assert child.wait() == 143, child.output.read_text()
    assert (tmp_path / "run/seed0/checkpoints/last.ckpt").exists()
    assert not [*(tmp_path / "run").glob("seed*/test.json")]
    assert start(*args).wait() == 0
    assert len([*(tmp_path / "run").glob("seed*/test.json")]) == 2


def set_slurm(folder: Path, restarts: int) -> None:
    """In the child: set the environment of a SLURM job, with an ``scontrol`` that records its arguments."""
    scontrol = folder / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {folder / 'scontrol.log'}\n")
    scontrol.chmod(0o755)
    os.environ.update(
        SLURM_JOB_ID="42", SLURM_NTASKS="1", SLURM_JOB_NAME="train", SLURM_PROCID="0", SLURM_LOCALID="0",
        SLURM_NODEID="0", SLURM_RESTART_COUNT=str(restarts), PATH=f"{folder}:{os.environ['PATH']}",
    )  # fmt: skip


def set_slurm_time_limit(folder: Path) -> None:
    set_slurm(folder, restarts=0)
    Trap("lightning_cifar.train.classifier:ImageClassifier.training_step", 9, signal.SIGUSR1).set()


@pytest.mark.long
def test_slurm_job_at_its_time_limit_is_requeued_and_resumes(start, control, tmp_path, record_survival):
    run_dir = tmp_path / "run"
    child = start(*TRAINING, run_dir, prepare=partial(set_slurm_time_limit, tmp_path))
    assert child.wait() == 128 + signal.SIGUSR1, child.output.read_text()
    assert (tmp_path / "scontrol.log").read_text() == "requeue 42\n"
    child = start(*TRAINING, run_dir, prepare=partial(set_slurm, tmp_path, restarts=1))
    assert child.wait() == 0, child.output.read_text()
    assert_same(run_dir, control)
    record_survival("SIGUSR1 of SLURM, and its restart", 1, lost_steps=0)


def train_first_epoch(start, run_dir: Path) -> dict:
    """Train one epoch and return its checkpoint."""
    assert start(*TRAINING, run_dir, "--trainer.max_epochs", 1).wait() == 0
    return load_last(run_dir)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.long
def test_file_size_limit_keeps_the_checkpoint(start, control, tmp_path, record_survival):
    run_dir = tmp_path / "run"
    before = train_first_epoch(start, run_dir)
    size = (run_dir / "checkpoints/last.ckpt").stat().st_size
    more = ["fit", "--resume", run_dir, "--trainer.max_epochs", EPOCHS]
    child = start(*more, prepare=partial(limit_files, size // 2))
    assert child.wait() == 1
    check_full(child.output.read_text(), "File too large", run_dir, before)
    assert start(*more).wait() == 0
    assert_same(run_dir, control)
    record_survival("a limit on the size of files", 1, lost_steps=0)


def check_full(output: str, reason: str, run_dir: Path, before: dict) -> None:
    """Check the one-line error and that the newest checkpoint is not older than ``before``."""
    (error,) = (line for line in output.splitlines() if line.startswith("error:"))
    assert f"{reason}: free some space; a checkpoint, if any, is complete: fit --resume continues" in error
    assert "Traceback" not in output
    checkpoints = run_dir / "checkpoints"
    newest = checkpoints / "last.ckpt" if (checkpoints / "last.ckpt").exists() else checkpoints / "previous.ckpt"
    assert load_checkpoint(newest)["global_step"] >= before["global_step"]


@pytest.fixture
def small_disk(tmp_path):
    """Return the directory of a file system of 1.5 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.long
def test_full_disk_keeps_the_checkpoint(start, control, small_disk, record_survival):
    run_dir = small_disk / "run"
    before = train_first_epoch(start, run_dir)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(bytes(free - 20_000))
    more = ["fit", "--resume", run_dir, "--trainer.max_epochs", EPOCHS]
    child = start(*more)
    assert child.wait() == 1, child.output.read_text()
    check_full(child.output.read_text(), "No space left on device", run_dir, before)
    (small_disk / "other").unlink()
    assert start(*more).wait() == 0
    assert_same(run_dir, control)
    record_survival("a full disk", 1, lost_steps=0)


def limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


@pytest.mark.long
def test_too_little_memory_is_a_one_line_error(start, tmp_path, record_survival):
    args = ["fit", "--recipe", "report", "--data.dataset", "digits", "--data.batch_size", 1200, "--run_dir"]
    child = start(*args, tmp_path / "run", prepare=partial(limit_memory, 700 << 20))
    assert child.wait() == 1, child.output.read_text()
    (error,) = (line for line in child.output.read_text().splitlines() if line.startswith("error:"))
    assert error.startswith("error: out of memory: lower --data.batch_size in training")
    record_survival("too little memory", 1)


@pytest.mark.long
def test_secrets_in_the_environment_are_not_written(start, tmp_path, record_survival):
    canary = "c4n4ry" * 7
    secrets = partial(set_environment, WANDB_API_KEY=canary[:40], SOME_SECRET_TOKEN=canary)
    run_dir = tmp_path / "run"
    args = [*TRAINING, run_dir, "--trainer.max_epochs", 1, "--wandb", "offline"]
    assert start(*args, prepare=secrets).wait() == 0
    tested = ["test", "--ckpt_path", run_dir / "checkpoints/last.ckpt", "--run_dir", tmp_path / "test"]
    assert start(*tested, prepare=secrets).wait() == 0
    files = [file for folder in (run_dir, tmp_path / "test") for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if canary[:40].encode() in file.read_bytes()] == []
    record_survival("a secret in the environment", 1)


def test_checkpoint_with_code_is_refused(tmp_path, record_survival, capsys):
    from lightning_cifar import main

    class Harmful:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "harmed",)

    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": Harmful(), "hyper_parameters": {}}, file)
    assert main(["test", "--ckpt_path", str(file)]) == 2
    assert f"{file} is damaged or no checkpoint of this package" in capsys.readouterr().err
    assert not (tmp_path / "harmed").exists()
    record_survival("a checkpoint that would run code", 1)
