"""Directories of runs and other results: creation, ownership, locks; a refused command leaves them as they were."""

import datetime
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from lightning_cifar.errors import DISK_FULL, DivergenceError, InputError
from lightning_cifar.files import write_whole
from lightning_cifar.run.process.exit_status import find_stop
from lightning_cifar.sources.locks import acquire

LOCK = ".lock"
UNFINISHED = ".unfinished-{}"  # in a directory that a command fills, until it ends: it may then be repeated
# Files that a run writes before it has results, besides hidden ones; every result changes another file too.
SET_UP = {"config.yaml", "run.json", "hparams.yaml", "batch.png", "curves.png", "wandb", "sweep.db"}


def make_directory(named: Path | None, parent: Path, owner: Callable[[Path], bool]) -> tuple[Path, list[Path]]:
    """Make the directory that ``--run_dir`` names, as `claim_directory` does, or else one named by the time.

    Return it and the directories that were made for it, the innermost first.
    """
    made = list_missing(named or parent)
    if named:
        return claim_directory(named, "--run_dir", owner), made
    directory = make_timed_directory(parent)
    return directory, [directory, *made]


def make_timed_directory(parent: Path) -> Path:
    """Make ``parent/<time>``, or ``parent/<time>-2`` and so on if others were made in the same second."""
    wanted = parent / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    directory, number = wanted, 1
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                directory.mkdir()
                return directory
            except FileExistsError:
                number += 1
                directory = wanted.with_name(f"{wanted.name}-{number}")
    except OSError as error:
        raise refuse_directory(error, f"--run_dir {error.filename}") from error


def claim_directory(directory: Path, option: str, owner: Callable[[Path], bool]) -> Path:
    """Make a directory that must be new, empty or already this command's; hidden files do not count.

    ``option`` named it. ``owner`` returns whether a directory that holds files belongs to the command.
    """
    made = list_missing(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        has_files = any(not entry.name.startswith(".") for entry in directory.iterdir())
        taken = has_files and not owner(directory)
    except OSError as error:
        remove_empty(made)  # its parents
        raise refuse_directory(error, f"{option} {directory}") from error
    if taken:
        raise InputError(f"{option} {directory} is not empty: name a new or empty directory")
    return directory


def refuse_directory(error: OSError, named: str) -> Exception:
    """Return the error to raise if a directory cannot be made; a full disk is nobody's bad input."""
    if error.errno in DISK_FULL:
        return error
    return InputError(f"{named}: {error.strerror}; name another directory")


def lock(run_dir: Path) -> BaseFileLock | None:
    """Keep other processes from writing to a run directory until the lock is released or this process dies.

    Return the lock; None if no file can be made there. `InputError` if another process has it.
    """
    held = acquire(run_dir / LOCK, 0, f"{run_dir} is in use: another process trains in it")
    if held is not None:
        for partial in run_dir.rglob(".*.partial"):  # of processes that were killed while writing
            partial.unlink(missing_ok=True)
    return held


def list_missing(directory: Path) -> list[Path]:
    """Return the directory and its parents as far as they do not exist, the innermost first."""
    return [one for one in (directory, *directory.parents) if not one.exists()]


def remove_empty(directories: Sequence[Path]) -> None:
    """Remove those directories, the innermost first, that exist and are empty."""
    for one in directories:
        with suppress(OSError):
            one.rmdir()


def undo_if_refused(directory: Path, made: Sequence[Path] = (), stopped: bool = False) -> Callable[..., None]:
    """Return an exit function of a context that may end with an error, or by a signal.

    It restores the entries that the directory has now, unless there are results by then, and removes those that were
    ``made`` for the run, the innermost first. With ``stopped``, a signal, or the end of the output's reader, also
    removes results: they are not complete, and nothing could be resumed in this new directory.
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
        if has_results(changed) and not with_results:
            return
        for one in sorted(changed, key=lambda one: one.name.startswith(LOCK)):  # the lock last
            if one in files and is_of_set_up(one):
                content, before = files[one]
                write_whole(one, content)
                os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
            elif one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink(missing_ok=True)
        remove_empty(made)

    def end(_: Any, error: BaseException | None, __: Any) -> None:
        if error is not None and not isinstance(error, DivergenceError):
            restore(stopped and (find_stop(error) is not None or isinstance(error, BrokenPipeError)))

    return end


def has_results(entries: Iterable[Path]) -> bool:
    """Return whether a run has written more than its set-up does."""
    return not all(map(is_of_set_up, entries))


def is_of_set_up(file: Path) -> bool:
    return file.name in SET_UP or file.name.startswith(".")
