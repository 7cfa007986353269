"""The processes of a run that Lightning starts: a stop, or the end of one of them, ends all, with one line."""

import multiprocessing
import os
import signal
import subprocess
import threading
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

from lightning_cifar.errors import InputError
from lightning_cifar.run.process import ranks
from lightning_cifar.run.process.exit_status import RankError
from tests.children import LIMIT, redirect

TWO = ["--data.drop_last", "true", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--run_dir", "run"]
RUN = ["-m", "lightning_cifar", "fit", "--recipe", "demo", "--trainer.max_epochs", "200", *TWO]
RUN += ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0"]
NETWORK = """
import os
from torch import nn

class Failing(nn.Linear):
    calls = 0
    def forward(self, x):
        self.calls += 1
        if self.calls > 5 and os.environ["LOCAL_RANK"] == "1":
            raise RuntimeError("no such pixel")
        return super().forward(x.flatten(1))

def make(num_classes):
    return Failing(3 * 32 * 32, num_classes)
"""


@pytest.fixture
def start_two(start_python):
    """Starts a run of two processes; its output is written to a file."""

    def start(*args: str) -> subprocess.Popen:
        with Path("output").open("w") as output:
            return start_python(*RUN, *args, stdout=output, stderr=subprocess.STDOUT)

    return start


def read(file: Path) -> str:
    """Return what /proc says of a process or a thread; nothing if it has ended meanwhile."""
    with suppress(OSError):
        return file.read_text(errors="replace")
    return ""


def find_rank_one(job: subprocess.Popen) -> int | None:
    """Return the process id of rank 1 of a run, once it runs Python."""
    lists = [read(file).split() for file in Path(f"/proc/{job.pid}/task").glob("*/children")]
    found = (int(one) for one in chain(*lists) if "LOCAL_RANK=1" in read(Path(f"/proc/{one}/environ")))
    return next(found, None)


def has_ended(process: int) -> bool:
    return read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()[:1] in ([], ["Z"])


@pytest.mark.fault
@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "target"), [(signal.SIGINT, "all"), (signal.SIGTERM, "rank 0"), (signal.SIGTERM, "all")]
)
def test_a_stop_while_another_process_starts_leaves_nothing(start_two, eventually, number, target):
    """As a terminal, a scheduler and `kill` send it. Rank 1 imports torch, and rank 0 waits for it."""
    job = start_two()
    eventually(lambda: find_rank_one(job), job)
    rank_one = find_rank_one(job)
    eventually(lambda: "libtorch" in read(Path(f"/proc/{rank_one}/maps")), job)
    os.kill(job.pid, number) if target == "rank 0" else os.killpg(job.pid, number)
    assert job.wait(LIMIT) == 128 + number
    eventually(lambda: has_ended(rank_one))
    assert Path("output").read_text().splitlines() == ["run directory: run", "interrupted"]
    assert not Path("run").exists()


@pytest.mark.fault
@pytest.mark.parametrize("rank", [pytest.param(1, marks=pytest.mark.slow), pytest.param(0, marks=pytest.mark.long)])
def test_a_rank_that_is_killed_ends_the_run_with_one_line(start_two, eventually, rank):
    """As by the kernel for lack of memory; the other process waits for it in torch."""
    job = start_two("--trainer.sync_batchnorm", "true")  # which must not end it: batch norm uses the global batch
    eventually(Path("run/checkpoints/last.ckpt").exists, job)
    rank_one = find_rank_one(job)
    os.kill(rank_one if rank else job.pid, signal.SIGKILL)
    killed = "rank 1 was ended by SIGKILL, perhaps for lack of memory"
    assert job.wait(LIMIT) == (1 if rank else -signal.SIGKILL)
    eventually(lambda: has_ended(rank_one))
    output = Path("output").read_text()
    assert [line for line in output.splitlines() if line.startswith("error")] == [
        f"error: {killed}" if rank else "error: rank 0 has ended, so rank 1 ends too"
    ]
    assert "Traceback" not in output
    assert ("resume it: python -m lightning_cifar fit --resume run" in output) == bool(rank)
    assert Path("run/checkpoints/last.ckpt").exists()


@pytest.mark.fault
@pytest.mark.long
def test_a_callback_may_save_a_checkpoint_of_stopped_processes(start_two, eventually):
    """All must be alive then, for they wait for each other."""
    job = start_two("--trainer.callbacks", "OnExceptionCheckpoint", "--trainer.callbacks.dirpath", "stopped")
    eventually(Path("run/checkpoints/last.ckpt").exists, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(LIMIT) == 128 + signal.SIGTERM
    assert Path("stopped/on_exception.ckpt").exists()


@pytest.mark.long
def test_an_error_of_another_rank_is_one_line_of_rank_zero(start_two):
    Path("mine.py").write_text(NETWORK)
    job = start_two("--model.network", "mine:make", "--trust_config", "mine")
    assert job.wait(LIMIT) == 2
    (line,) = [line for line in Path("output").read_text().splitlines() if "rror" in line]
    assert line.startswith("error: rank 1: RuntimeError: no such pixel (mine.py, line 10); ")
    assert not Path("run").exists()


def wait_in_vain(output: Path) -> None:
    """In a child: wait for a rank that has failed, as a GPU does."""
    redirect(2, output)
    ranks.PATIENCE = 0
    ranks.run_watched(lambda: RankError(1, "rank 1 has failed"), 0, threading.Event().wait)


@pytest.mark.slow
def test_a_process_that_waits_for_a_failed_one_without_an_error_is_ended(tmp_path):
    (output := tmp_path / "output").touch()
    child = multiprocessing.get_context("forkserver").Process(target=wait_in_vain, args=(output,))
    child.start()
    child.join(LIMIT)
    assert (child.exitcode, output.read_text()) == (1, "error: rank 1 has failed\n")


@pytest.mark.parametrize(("error", "failure"), [(OSError("mine"), None), (InputError("mine"), RankError(1, "theirs"))])
def test_an_error_for_which_no_other_rank_is_the_cause_stays(error, failure):
    def fail() -> None:
        raise error

    with pytest.raises(type(error), match="mine"):
        ranks.run_watched(lambda: failure, 0.1, fail)
