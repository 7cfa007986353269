"""Files: atomic writes, digests."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PRETRAINED_NAME = "pretrained"  # stands for the model in this package where a file of one is named
WEIGHTS = ".safetensors"  # weights only; every other checkpoint is Lightning's
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
