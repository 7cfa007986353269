"""The exit status and the one-line message of an error. Imports no torch unless an error must be explained."""

import errno
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

from lightning_cifar.errors import DISK_FULL, FORBIDDEN, DivergenceError, InputError, reason

RESTORING = {"checkpoint_connector.py", "checkpoint_files.py", "last_checkpoint.py"}  # of Lightning and this package
TRACEBACK = "LIGHTNING_CIFAR_TRACEBACK"  # environment variable: also print the traceback of an explained error


class RankError(RuntimeError):
    """Another process of the run has failed; ``status`` is the exit status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def explain(error: Exception, trains: bool = True) -> tuple[int | None, str]:
    """Return the exit status and a message for an error that users can understand; None for any other error."""
    if isinstance(error, DivergenceError):
        return 3, str(error)
    if isinstance(error, RankError):
        return error.status, str(error)
    if is_missing(error):
        name, remedy = str(error.name).partition(".")[0], "activate another environment; for a checkout, pip install -e"
        return 2, f"the package {name} is not installed: pip install it for {sys.executable}, or {remedy} DIRECTORY"
    if isinstance(error, ValueError) and str(error).startswith("Key backend: "):  # matplotlib cannot be imported
        why = str(error).removeprefix("Key backend: ").partition(";")[0]
        return 2, f"MPLBACKEND, or backend in a matplotlibrc: {why}; unset it, or set it to agg"
    if is_about_input(error):
        words = re.sub(r"<[\w.]*?(\w+) object at 0x\w+>", r"\1", str(error))  # in messages of Lightning
        return 2, words + locate(error.__cause__)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        file = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        remedy = "a checkpoint, if any, is complete: fit --resume continues" if trains else "then run the command again"
        return 1, f"{file}{error.strerror}: free some space; {remedy}"
    if isinstance(error, OSError) and error.errno in FORBIDDEN and error.filename:
        return 2, f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, FileNotFoundError) and error.errno == errno.ENOENT and error.filename is None:  # of getcwd
        return 2, "the working directory was deleted: change to one that exists"
    if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
        return 2, (
            "a training batch of one image: batch norm needs more values of each channel; set --data.drop_last true, "
            "or another --data.batch_size"
        )
    if isinstance(error, ValueError) and str(error).startswith("SyncBatchNorm expected input tensor to be on"):
        return 2, "--trainer.sync_batchnorm needs GPUs: leave it out"
    if is_out_of_memory(error):
        return 1, (
            "out of memory: lower --data.batch_size in training, --data.eval_batch_size in evaluation, "
            f"--batch_size in predict --images ({reason(error)})"
        )
    if isinstance(error, RuntimeError) and "does not require grad and does not have a grad_fn" in str(error):
        return 2, "the loss has no gradient: the network detaches its logits, by torch.no_grad, detach or NumPy"
    if find_stop(error) is None and (place := locate(error)):
        words = f"{type(error).__name__}: {reason(error)}" if str(error) else type(error).__name__
        return 2, f"{words}{place}; {TRACEBACK}=1 prints the traceback"
    return None, ""


def prints_tracebacks() -> bool:
    return os.environ.get(TRACEBACK, "0") not in ("", "0")


def is_missing(error: Exception) -> TypeGuard[ModuleNotFoundError]:
    """Return whether a package that this one imports is not installed, as where an environment was not activated."""
    if not isinstance(error, ModuleNotFoundError):
        return False
    from importlib.metadata import PackageNotFoundError  # late: other errors do not wait for it

    places = traceback.extract_tb(error.__traceback__)
    is_ours = bool(places) and Path(places[-1].filename).is_relative_to(Path(__file__).parents[2])
    return is_ours or isinstance(error, PackageNotFoundError)


def find_stop(error: BaseException | None) -> KeyboardInterrupt | SystemExit | None:
    """Return the stop by a signal that an error is, or that a library was handling when its clean-up failed."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and is_signal(error.code)):
            return error
        error = error.__context__
    return None


def is_signal(code: object) -> bool:
    """Return whether an exit status is that of a signal, such as SLURM's SIGUSR1: 128 and its number."""
    return isinstance(code, int) and code > 128


def locate(cause: BaseException | None) -> str:
    """Return such as `` (mine.py, line 3)``: the last line of the user's code, if an error comes from there.

    Nothing for an OSError, which names its file.
    """
    lines = traceback.extract_tb(cause.__traceback__) if cause and not isinstance(cause, OSError) else []
    own = [one for one in lines if is_own(one.filename)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def is_own(file: str) -> bool:
    """Return whether a file is the user's: neither Python's, nor this package's, nor of an installed one."""
    folders = [Path(sysconfig.get_path("stdlib")), Path(__file__).parents[2]]
    return not (
        file.startswith("<")
        or {"site-packages", "dist-packages"} & {*Path(file).parts}
        or any(map(Path(file).is_relative_to, folders))
    )


def is_out_of_memory(error: Exception) -> bool:
    words = ("can't allocate memory", "not enough memory", "out of memory")  # torch has a type for GPUs only
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in words)
    )


def is_about_input(error: Exception) -> bool:
    """Return whether the user's input is at fault.

    Lightning complains about its flags by ``MisconfigurationException`` or, in its own files, by ValueErrors and, if a
    package is missing, ModuleNotFoundErrors.
    """
    if isinstance(error, InputError):
        return True
    import lightning
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, MisconfigurationException) or (
        isinstance(error, ValueError | ModuleNotFoundError) and Path(lightning.__file__).parent in raised_in.parents
    )


@contextmanager
def explain_checkpoint(file: str | Path | None) -> Iterator[None]:
    """Turn an error in restoring a checkpoint into an `InputError` that names the file."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        places = {Path(frame.f_code.co_filename).name for frame, _ in traceback.walk_tb(error.__traceback__)}
        if file is None or not places & RESTORING or "fit_loop.py" in places or is_out_of_memory(error):
            raise
        if epochs := re.search(r"current_epoch=(\d+), but .*max_epochs=(\d+)", str(error)):
            trained, limit = epochs.groups()
            raise InputError(f"--trainer.max_epochs {limit}: {file} is after epoch {trained}, set more") from error
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{file} does not fit this run: {words}") from error


@contextmanager
def explain_callbacks() -> Iterator[None]:
    """Turn an error in a callback of Lightning, which does not suit the model or the data, into an `InputError`."""
    try:
        yield
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
        names = [file.stem for file in files if file.parts[-4:-1] == ("lightning", "pytorch", "callbacks")]
        if isinstance(error, TypeError) and files[-1].parts[-2:] == ("trainer", "call.py"):
            raise InputError(f"the Trainer cannot call a hook: {error}") from error
        if not names or explain(error)[0] is not None:
            raise
        raise InputError(f"a callback ({names[-1]}) cannot be used here: {type(error).__name__} {error}") from error
