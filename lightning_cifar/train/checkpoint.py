"""Checkpoints: written atomically with a digest, verified and read without running code."""

import io
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_cifar.errors import InputError
from lightning_cifar.files import write_whole

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
