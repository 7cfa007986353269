"""Ranks: the processes of a run that Lightning starts. If one of them fails, all end, and a line says why.

Lightning would kill all of them without a word, and rank 0 while it writes a checkpoint.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning import Trainer

from lightning_cifar.run.process.exit_status import RankError, explain, prints_tracebacks
from lightning_cifar.run.process.rank_zero import pass_on, values_of_rank_zero

# Seconds that a process gets to end by itself: after a connection broke, so that a process that had the same error as
# rank 0 prints nothing; and where it waits for a GPU, or writes a checkpoint.
MOMENT, PATIENCE = 2.0, 10.0


@contextmanager
def watch_ranks(trainer: Trainer) -> Iterator[None]:
    """Let the Trainer's processes watch each other, if Lightning starts them, in place of Lightning's observer.

    An error ends the others only when it leaves this context: callbacks may save a checkpoint of all processes before.
    """
    launcher: Any = trainer.strategy.launcher
    with ExitStack() as ending:
        if not hasattr(launcher, "cluster_environment"):  # one process
            pass
        elif not launcher.cluster_environment.creates_processes_externally:
            folder = Path(ending.enter_context(TemporaryDirectory()))
            ending.push(lambda error, *_: launcher.kill(signal.SIGKILL) if error else None)
            launcher.launch = partial(lead, launcher, folder, launcher.launch)
        elif "parent" in values_of_rank_zero():
            launcher.launch = partial(follow, launcher.launch)
        yield


def lead(
    launcher: Any, folder: Path, launch: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Start the other processes and, once they have started, run ``function`` in this one, which is rank 0.

    Until then this process waits in Python, where a signal can end it, and not in torch.
    """
    find = partial(find_failed_rank, launcher, folder)

    def run(*args: Any, **kwargs: Any) -> Any:
        started, launcher.procs = launcher.procs, [*launcher.procs]
        started.clear()  # of Lightning's observer, which then ends
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a Ctrl-C that has come is raised here
        while len([*folder.glob("*.ready")]) < len(launcher.procs):
            if failure := find():
                raise failure
            time.sleep(0.05)
        return run_watched(find, MOMENT, function, *args, **kwargs)

    pass_on(parent=os.getpid(), folder=str(folder))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # in the other processes: this one ends them
    try:
        return launch(run, *args, **kwargs)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def follow(launch: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run ``function`` in a process that rank 0 has started; Ctrl-C has no effect until training handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if failure := find_lost_parent():
        raise failure
    Path(values_of_rank_zero()["folder"], f"{os.environ['LOCAL_RANK']}.ready").touch()
    return launch(partial(run_watched, find_lost_parent, 2 * MOMENT, function), *args, **kwargs)


def run_watched(
    find: Callable[[], RankError | None], seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Run ``function``; if it fails for no known reason, raise what ``find`` returns of another process.

    ``seconds`` is how long the other process may take to end. A process that waits for it without an error is ended.
    """
    done = threading.Event()
    threading.Thread(target=end_if_stuck, args=(done, find), daemon=True).start()
    try:
        return function(*args, **kwargs)
    except Exception as error:
        end = time.monotonic() + seconds
        while explain(error)[0] is None and time.monotonic() < end:
            if failure := find():
                raise failure from error
            time.sleep(0.05)
        raise
    finally:
        done.set()


def end_if_stuck(done: threading.Event, find: Callable[[], RankError | None]) -> None:
    while (failure := find()) is None:
        if done.wait(1):
            return
    if not done.wait(PATIENCE):
        print(f"error: {failure}", file=sys.stderr, flush=True)
        os._exit(failure.status)


def find_failed_rank(launcher: Any, folder: Path) -> RankError | None:
    """Return the error of a process that this one has started and that has failed; None if none has."""
    for rank, process in enumerate(launcher.procs, 1):
        if status := process.poll():
            if (report := folder / f"{rank}.error").exists():
                return RankError(status, f"rank {rank}: {report.read_text()}")
            if status > 0:
                return RankError(1, f"rank {rank} ended with status {status}; its own message is above")
            name = signal.Signals(-status).name
            hint = ", perhaps for lack of memory" if -status == signal.SIGKILL else ""
            return RankError(1, f"rank {rank} was ended by {name}{hint}")
    return None


def find_lost_parent() -> RankError | None:
    """Return the error of a process that has lost rank 0, which started it; else None."""
    lost = os.getppid() != values_of_rank_zero()["parent"]
    return RankError(1, f"rank 0 has ended, so rank {os.environ['LOCAL_RANK']} ends too") if lost else None


def report_failure(error: Exception) -> int | None:
    """Leave the message of an error to rank 0, and return the exit status; None if this process must print it."""
    status, message = explain(error)
    values = values_of_rank_zero()
    if status is None or "parent" not in values or find_lost_parent() or prints_tracebacks():
        return None
    try:
        Path(values["folder"], f"{os.environ['LOCAL_RANK']}.error").write_text(message)
    except OSError:  # rank 0 needs this process no more
        return None
    return status
