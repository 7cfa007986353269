"""Checkpoints: written atomically with a digest, verified, and read without running code."""

import io
import re
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.serialization import get_unsafe_globals_in_checkpoint

from lightning_cifar.errors import InputError
from lightning_cifar.files import write_whole

DIGEST = 64  # characters of a SHA-256
# The record at the end of a zip archive: its first bytes, its length, and its last bytes if no comment follows.
ZIP_SIGNATURE, ZIP_END, NO_COMMENT = b"PK\5\6", 22, b"\0\0"


class DurableIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin with atomic writes and digests for local files; Lightning handles URLs itself."""

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
    """Write a checkpoint atomically, a zip archive whose comment is its SHA-256; create its directory if needed."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    buffer.seek(0)
    check_readable(buffer)
    body = buffer.getvalue()[:-2]  # without the length of the comment, which is 0
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, body + make_comment(body))


def check_readable(buffer: io.BytesIO) -> None:
    """Raise `InputError` if reading this checkpoint would run code, such as that of a class of the user."""
    if unsafe := get_unsafe_globals_in_checkpoint(buffer):
        problem = f"the state of a module, callback or optimiser holds {unsafe[0]}, which checkpoints cannot"
        raise InputError(f"{problem}: return numbers, strings and tensors from state_dict and get_extra_state")


def make_comment(body: bytes) -> bytes:
    return struct.pack("<H", DIGEST) + sha256(body).hexdigest().encode()


def check_checkpoint(path: Any) -> None:
    """Raise `InputError` if a local file is damaged or no checkpoint; URLs and opened files are not read."""
    if isinstance(path, str | Path) and "://" not in str(path) and "state_dict" not in load_checkpoint(Path(path)):
        raise InputError(f"{path} is no checkpoint: it has no state_dict. For weights alone, use model.load_state_dict")


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running stored code, and verify its digest if it has one."""
    try:
        content = file.read_bytes()
        end = content[content.rfind(ZIP_SIGNATURE) :]
        if not (content.startswith(b"PK") and end.startswith(ZIP_SIGNATURE)):
            raise ValueError("it is not a whole zip archive, as checkpoints are")
        body, comment = content[: -DIGEST - 2], content[-DIGEST - 2 :]
        if not end.endswith(NO_COMMENT, 0, ZIP_END) and comment != make_comment(body):
            raise ValueError("its SHA-256 differs from the one stored in it")
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise ValueError(f"it holds a {type(checkpoint).__name__}")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except Exception as error:  # damage raises many types of errors
        line = f"{error}" if type(error) is ValueError else f"{type(error).__name__} {error}".splitlines()[0]
        if found := re.search(r"global: (?:GLOBAL )?(\S+)", str(error)):  # torch's, with escape codes and wrong advice
            line = f"it holds {found[1]}, which runs code: save a state_dict, or leave it out of save_hyperparameters"
        raise InputError(f"{file} is damaged or no checkpoint of this package ({line})") from error
    return checkpoint
