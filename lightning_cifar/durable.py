"""Files that are whole or absent: written beside their place, synced, moved; checkpoints are verified when read."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_cifar.errors import InputError

LOCK = ".lock"
DIGEST = 64  # characters of a SHA-256
# What ends a zip archive: how it begins, its length, and its last bytes where no comment follows, as torch has it.
ZIP_SIGNATURE, ZIP_END, NO_COMMENT = b"PK\5\6", 22, b"\0\0"


class DurableIO(TorchCheckpointIO):
    """Lightning's way to files, made durable; places with a scheme (``s3://``) are left to Lightning."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return load_checkpoint(Path(path))


def save_checkpoint(checkpoint: dict[str, Any], file: Path) -> None:
    """Writes it by `write_whole`, with a digest; makes the directory where need be."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, sealed(buffer.getvalue()))


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file that is, whatever happens, and for every other process, the old one or the new one, and whole.

    Raises:
        OSError: the disk is full, say; ``file`` is then as it was.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from error
    sync_directory(file.parent)


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


def sealed(archive: bytes) -> bytes:
    """A zip archive, as torch writes, whose comment is the SHA-256 of what comes before."""
    body = archive[:-2]  # without the comment's length, which ends an archive that has none
    return body + struct.pack("<H", DIGEST) + sha256(body).hexdigest().encode()


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without running code that it may hold; verifies the digest where it has one.

    Raises:
        InputError: it is damaged, or no checkpoint.
    """
    try:
        content = file.read_bytes()
        end = content[content.rfind(ZIP_SIGNATURE) :]
        if not end.endswith(NO_COMMENT, 0, ZIP_END) and sealed(content[:-DIGEST]) != content:
            raise ValueError("its SHA-256 is not the one it was written with")
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise ValueError(f"it holds a {type(checkpoint).__name__}")
    except Exception as error:  # damage shows in too many ways to list, none of them worth a traceback
        reason = f"{type(error).__name__} {error!s}".splitlines()[0]
        raise InputError(f"{file} is damaged or no checkpoint of this package ({reason})") from error
    return checkpoint
