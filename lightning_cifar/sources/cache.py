"""The decoded images of a folder, cached: decoding 60,000 files takes tens of seconds.

The cache is used only while name, label, size and times of every file are unchanged and the cached images have the
recorded fingerprint.
"""

import hashlib
import os
import warnings
from pathlib import Path

import torch

from lightning_cifar.data.dataset import ImageSet, digest_images
from lightning_cifar.data.square import SQUARE, Square
from lightning_cifar.errors import InputError
from lightning_cifar.files import open_atomically

DECODER = b"5"  # version of `images.decode`: increase it when pixels change, and older caches are ignored
Files = dict[str, list[tuple[str, int]]]  # path and label of each image, by part


def digest_stats(root: Path, files: Files) -> str:
    """Return the SHA-256 of part, label, name, size, modification and change time of all files, and of `DECODER`.

    A change time, unlike a modification time, cannot be set back.
    """
    digest = hashlib.sha256(DECODER)
    for part, found in files.items():
        for path, label in found:
            try:
                stat = os.stat(path)
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}): replace or remove it") from error
            line = f"{part} {label} {make_relative(root, path)}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def make_relative(root: Path, path: str) -> str:
    return path.removeprefix(str(root)).lstrip(os.sep)


def locate_cache(root: Path, square: Square = SQUARE) -> Path:
    """Return ``$XDG_CACHE_HOME/lightning-cifar/<name>-<hash of the full path>.pt``; nothing is written to ``root``.

    Each ``square`` has its own file.
    """
    base = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    full = root.resolve()
    if not os.path.isabs(base):  # containers may have users without a home
        base = os.devnull  # where nothing can be written: `write_cache` warns
    key = hashlib.sha256(bytes(full)).hexdigest()[:12]
    kind = "" if square == SQUARE else f"-{square.side}-{square.rule}"
    return Path(base) / "lightning-cifar" / f"{full.name}-{key}{kind}.pt"


def read_cache(cache: Path, state: str) -> dict[str, ImageSet] | None:
    """Return the cached parts; None if there are none, they are damaged, or an image file has changed since."""
    try:
        stored = torch.load(cache, weights_only=True)
        parts = {part: ImageSet(*tensors) for part, tensors in stored["parts"].items()}
        return parts if stored["state"] == state and stored["fingerprint"] == digest_images(parts.values()) else None
    except Exception:  # missing, or damaged, which fails in many ways
        return None


def write_cache(cache: Path, state: str, parts: dict[str, ImageSet]) -> None:
    """Write the cache atomically; only warn if that fails."""
    tensors = {name: (part.images, part.labels) for name, part in parts.items()}
    content = {"state": state, "fingerprint": digest_images(parts.values()), "parts": tensors}
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(cache, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the decoded images could not be cached in {cache}: {error}", stacklevel=2)
