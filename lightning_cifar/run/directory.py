"""Directories of runs and other results: creation, ownership, locks."""

import datetime
from collections.abc import Callable
from pathlib import Path

from filelock import BaseFileLock

from lightning_cifar.errors import DISK_FULL, InputError
from lightning_cifar.files import acquire
from lightning_cifar.run.refusal import list_missing, remove_empty

LOCK = ".lock"
UNFINISHED = ".unfinished"  # in a directory that a command fills, until it ends: it may then be repeated


def make_directory(
    named: Path | None, parent: Path, owner: Callable[[Path], bool] | None = None
) -> tuple[Path, list[Path]]:
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


def claim_directory(directory: Path, option: str, owner: Callable[[Path], bool] | None = None) -> Path:
    """Make a directory that must be new, empty or already this command's; hidden files do not count.

    ``option`` named it. ``owner`` returns whether a directory that holds files belongs to the command; None: none does.
    """
    made = list_missing(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        has_files = any(not entry.name.startswith(".") for entry in directory.iterdir())
        taken = has_files and not (owner and owner(directory))
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
