"""Files: atomic writes, digests, locks."""

import errno
import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lightning_cifar.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

PRETRAINED_NAME = "pretrained"  # stands for the model in this package where a file of one is named
WEIGHTS = ".safetensors"  # weights only; every other checkpoint is Lightning's
LONGEST_WAIT = 3600  # seconds
NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)  # of directories, on CIFS and the like


def compute_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_lines(file: Path) -> list[str]:
    """Return the lines of a file; none if there is no such file."""
    return file.read_text().splitlines() if file.is_file() else []


@contextmanager
def open_atomically(file: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a sibling file for writing and put it in the place of ``file`` once it is complete and on disk.

    Other processes see the old content or the new one. If writing fails or is interrupted, ``file`` stays as it was,
    and an `OSError` names it. ``mode`` is ``w`` or ``wb``; ``options`` are those of ``open``.
    """
    partial = file.with_name(f".{file.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open(mode.replace("w", "x"), **options) as opened:  # new: no link of somebody else is followed
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError as error:
        if error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise
    finally:
        with suppress(OSError):
            partial.unlink()
    sync_directory(file.parent)


def write_whole(file: Path, content: bytes) -> None:
    """Write a file atomically: see `open_atomically`."""
    with open_atomically(file, "wb") as opened:
        opened.write(content)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write ``content`` atomically, indented by two spaces."""
    write_whole(file, (json.dumps(content, indent=2) + "\n").encode())


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


def sync_directory(directory: Path) -> None:
    """Make names that were created or replaced in a directory durable."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # a directory that may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
