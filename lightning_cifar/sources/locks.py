"""Locks: one process at a time prepares data, or writes to a directory."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_cifar.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LONGEST_WAIT = 3600  # seconds


def acquire(file: Path, seconds: float, refusal: str, needed: bool = True) -> "BaseFileLock | None":
    """Return the lock ``file``, held; None if no lock can be made there.

    Where the file system has no locks, the lock is ``file.owner``, which names a process and its host; filelock removes
    it if that process of this host has ended. Whoever may write to the directory may lock it: the file gets the
    directory's permissions.

    ``refusal`` are the words of the `InputError` if another process still holds it after these ``seconds``. Another
    user's file, which cannot be opened, is an `InputError` too if the lock is ``needed``; else None is returned.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # late: help does not wait for it

    mode = 0o600 | (file.parent.stat().st_mode & 0o066 if file.parent.is_dir() else 0)
    for held in (FileLock(file, mode=mode), SoftFileLock(f"{file}.owner", mode=mode)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # filelock's, that it uses such a file
                held.acquire(timeout=seconds)
            return held
        except Timeout:
            hint = f"; if none does, delete {held.lock_file}" if isinstance(held, SoftFileLock) else ""
            raise InputError(refusal + hint) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, PermissionError) and os.path.lexists(held.lock_file):
                if not needed:  # a file of the next kind would be a second lock
                    return None
                why = "it is another user's; if no process uses the directory, delete it"
                raise InputError(f"{held.lock_file} cannot be opened: {why}") from error
    return None


@contextmanager
def one_at_a_time(file: Path, activity: str) -> Iterator[None]:
    """Wait until no other process holds the lock ``file``, then hold it; where it cannot be made or opened, go ahead.

    Prints that it waits for the other process, which does ``activity``; after an hour this is an `InputError`.
    """
    try:
        held = acquire(file, 1, "", needed=False)
    except InputError:
        print(f"waiting for another process, which {activity}", flush=True)
        held = acquire(file, LONGEST_WAIT, f"waited an hour for another process, which {activity}", needed=False)
    try:
        yield
    finally:
        if held is not None:
            held.release()
