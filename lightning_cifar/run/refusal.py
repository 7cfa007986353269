"""Refused commands leave their directory as it was; errors of checkpoints and callbacks, in one line."""

import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.files import write_whole
from lightning_cifar.run.process.exit_status import explain, find_stop, is_out_of_memory

# What a run writes without any result, but for hidden files; every result changes another file too.
SET_UP = {"config.yaml", "run.json", "hparams.yaml", "batch.png", "curves.png", "wandb", "sweep.db"}
RESTORING = {"checkpoint_connector.py", "checkpoint_files.py", "last_checkpoint.py"}  # of Lightning and this package


def list_missing(directory: Path) -> list[Path]:
    """Return the directory and its parents as far as they do not exist, the innermost first."""
    return [one for one in (directory, *directory.parents) if not one.exists()]


def remove_empty(directories: Sequence[Path]) -> None:
    """Remove those directories, the innermost first, that exist and are empty."""
    for one in directories:
        with suppress(OSError):
            one.rmdir()


def undo_if_refused(directory: Path, made: Sequence[Path] = (), stopped: bool = False) -> Callable[..., None]:
    """Return an exit function of a context that ends with an error because of the user's input, or of its size.

    With ``stopped``, also of one that a signal ends, with its results: nothing could be resumed in this new directory.

    It restores the entries that the directory has now, unless there are results by then, and removes those that were
    ``made`` for the run, the innermost first.
    """
    entries = set(directory.iterdir())
    # Only what a set-up may write is restored; others may be large.
    files = {
        file: (file.read_bytes() if is_of_set_up(file) else b"", file.stat()) for file in entries if file.is_file()
    }

    def restore(with_results: bool) -> None:
        if not directory.is_dir():  # deleted while it was in use
            return
        changed = set(directory.iterdir()) - entries
        changed |= {one for one in files if not one.exists() or one.stat().st_mtime_ns != files[one][1].st_mtime_ns}
        if not (with_results or all(map(is_of_set_up, changed))):
            return
        for one in changed:
            if one in files:
                content, before = files[one]
                write_whole(one, content)
                os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
            elif one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()
        remove_empty(made)

    def end(_: Any, error: BaseException | None, __: Any) -> None:
        ends = stopped and find_stop(error) is not None
        if ends or (isinstance(error, Exception) and (explain(error)[0] == 2 or is_out_of_memory(error))):
            restore(with_results=ends)

    return end


def is_of_set_up(file: Path) -> bool:
    return file.name in SET_UP or file.name.startswith(".")


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
        if not names or explain(error)[0] is not None:
            raise
        raise InputError(f"a callback ({names[-1]}) cannot be used here: {type(error).__name__} {error}") from error
