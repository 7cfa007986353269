"""Flipped bits and truncation are detected in every kind of file that the package reads again."""

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar import InputError
from lightning_cifar.data.dataset import digest_images
from lightning_cifar.sources import cifar, folder
from lightning_cifar.sources.cache import locate_cache, read_cache
from lightning_cifar.train.checkpoint import DIGEST, ZIP_END, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.fault
TIMES = 100  # per kind of file: half of them flipped bits, half truncations


def flip(content: bytes, offset: int, bit: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ (1 << bit)]) + content[offset + 1 :]


def damage(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the kind of damage and the damaged content."""
    draw = random.Random(0)
    for _ in range(TIMES // 2):
        offset = draw.randrange(len(content))
        yield "flip", flip(content, offset, draw.randrange(8))
        yield "cut", content[:offset]


def check_detection(file: Path, is_detected: Callable[[], bool]) -> int:
    """Check that every damage of ``file``, but not the file itself, is detected; return the number of damages."""
    content, tried = file.read_bytes(), 0
    assert not is_detected()
    for kind, damaged in damage(content):
        file.write_bytes(damaged)
        assert is_detected(), kind
        tried += 1
    return tried


def raises_input_error(read: Callable[[], object]) -> bool:
    try:
        read()
    except InputError:
        return True
    return False


def test_damaged_checkpoint_is_refused(tmp_path, record_survival):
    file = tmp_path / "x.ckpt"
    save_checkpoint({"state_dict": {"weight": torch.randn(1000)}, "epoch": 3}, file)
    whole = file.read_bytes()
    assert torch.load(file, weights_only=True)["epoch"] == load_checkpoint(file)["epoch"] == 3
    record_survival(
        "a damaged checkpoint", check_detection(file, lambda: raises_input_error(lambda: load_checkpoint(file)))
    )
    for offset in range(len(whole) - DIGEST - 2 - ZIP_END, len(whole)):  # the record with the digest
        for damaged in (flip(whole, offset, offset % 8), whole[:offset]):
            file.write_bytes(damaged)
            assert raises_input_error(lambda: load_checkpoint(file)), offset


def test_damaged_archive_is_refused(tmp_path, record_survival):
    file, content = tmp_path / "x.tar.gz", np.random.default_rng(0).bytes(20_000)
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    check = lambda: cifar.check_archive(file, "x.tar.gz", digest)  # noqa: E731
    record_survival("a damaged archive", check_detection(file, lambda: raises_input_error(check)))


def test_damaged_cache_is_not_used(tmp_path, record_survival):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(root / split / name / "x.png")
    folder.load_folder(root)
    cache = locate_cache(root)
    state = torch.load(cache, weights_only=True)["state"]

    def is_harmless() -> bool:
        """Return whether the cache is rejected, or still gives the decoded images."""
        found = read_cache(cache, state)
        return found is None or digest_images(found.values()) == expected

    content = cache.read_bytes()
    expected = digest_images(read_cache(cache, state).values())
    tried = 0
    for kind, damaged in damage(content):
        cache.write_bytes(damaged)
        assert is_harmless(), kind
        tried += 1
    record_survival("a damaged cache of decoded images", tried)
