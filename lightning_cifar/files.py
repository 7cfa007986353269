"""Files and directories: atomic writes, locks, digests, and the one rule for new or empty directories."""

import datetime
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from lightning_cifar.errors import DISK_FULL, InputError


def timed_directory(parent: Path) -> Path:
    """Makes ``parent/<time>``; ``parent/<time>-2`` ... where others were made in the same second."""
    wanted = parent / timestamp()
    directory, number = wanted, 1
    while True:
        try:
            directory.mkdir(parents=True)
            return directory
        except FileExistsError:
            number += 1
            directory = wanted.with_name(f"{wanted.name}-{number}")


def timestamp() -> str:
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def has_files(directory: Path) -> bool:
    """Whether anything lies in it, but for what is hidden."""
    return any(not entry.name.startswith(".") for entry in directory.iterdir())


def claim_directory(directory: Path, option: str, owner: Callable[[Path], bool] | None = None) -> Path:
    """Make a directory that must be new, empty or already this command's; hidden files do not count.

    Args:
        directory: made with its parents if it does not exist.
        option: option or argument that named the directory, for the error messages.
        owner: returns whether a directory that holds files belongs to the command; None: none does.

    Raises:
        InputError: the directory cannot be made or read, or holds files that are not the command's.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken = has_files(directory) and not (owner and owner(directory))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(f"{option} {directory}: {error.strerror}; name another directory") from error
    if taken:
        raise InputError(f"{option} {directory} is not empty: name a new or empty directory")
    return directory


def digest_of(file: Path) -> str:
    """SHA-256 of what is in it."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


LOCK = ".lock"


@contextmanager
def open_atomically(file: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a sibling file for writing and put it in the place of ``file`` once it is complete and on disk.

    If writing fails or is interrupted, ``file`` stays as it was.

    Args:
        file: replaced atomically; other processes see its old content or its new one.
        mode: ``w`` or ``wb``.
        **options: as of ``open``: ``encoding``, ``newline`` ...

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the error names ``file``.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open(mode, **options) as opened:
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


def lock(run_dir: Path) -> FileLock | None:
    """Keeps other processes from writing there, until it is released or this one dies.

    Raises:
        InputError: another one has it.
    """
    file = FileLock(run_dir / LOCK)
    try:
        file.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{run_dir} is in use: another process trains in it") from None
    except (OSError, NotImplementedError):  # a file system without locks
        return None
    return file


@contextmanager
def one_at_a_time(file: Path, words: str) -> Iterator[None]:
    """Waits until no other process has the lock ``file``, and says what that one does; where there are locks at all.

    A lock ends with its process.
    """
    waited_for = FileLock(file)
    with suppress(OSError, NotImplementedError):  # a file system without locks
        try:
            waited_for.acquire(timeout=1)
        except Timeout:
            print(f"waiting for another process, which {words}", flush=True)
            waited_for.acquire()
    try:
        yield
    finally:
        waited_for.release()


def sync_directory(directory: Path) -> None:
    """Makes names durable that were given or moved in it, where the system can."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
