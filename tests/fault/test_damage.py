"""Bits that flip and ends that are missing, in every kind of file that is read again: noticed before use."""

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar import InputError
from lightning_cifar.data import cifar, folder
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.fault
TIMES = 100  # of each kind, half of them cuts


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    draw = random.Random(0)
    for _ in range(TIMES // 2):
        place = draw.randrange(len(content))
        yield "flip", content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
        yield "cut", content[:place]


def all_noticed(file: Path, noticed: Callable[[], bool]) -> int:
    """How many damages of ``file`` were tried; each was noticed, and the file itself is not taken for damaged."""
    content, tried = file.read_bytes(), 0
    assert not noticed()
    for kind, damaged in damages(content):
        file.write_bytes(damaged)
        assert noticed(), kind
        tried += 1
    return tried


def refuses(read: Callable[[], object]) -> bool:
    try:
        read()
    except InputError:
        return True
    return False


def test_checkpoint(tmp_path, survived):
    file = tmp_path / "x.ckpt"
    save_checkpoint({"state_dict": {"weight": torch.randn(1000)}, "epoch": 3}, file)
    survived("a damaged checkpoint", all_noticed(file, lambda: refuses(lambda: load_checkpoint(file))))


def test_archive(tmp_path, survived):
    file, content = tmp_path / "x.tar.gz", np.random.default_rng(0).bytes(20_000)
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    check = lambda: cifar.check_archive(file, "x.tar.gz", digest)  # noqa: E731
    survived("a damaged archive", all_noticed(file, lambda: refuses(check)))


def test_cache(tmp_path, survived, monkeypatch):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(root / part / name / "x.png")
    expected = folder.load_folder(root)
    cache = folder.locate_cache(root)
    state = torch.load(cache, weights_only=True)["state"]

    def noticed() -> bool:
        """Or harmless: what is read is what was decoded."""
        found = folder.read_cache(cache, state)
        return found is None or found.fingerprint() == expected.fingerprint()

    content = cache.read_bytes()
    assert folder.read_cache(cache, state) is not None
    tried = 0
    for kind, damaged in damages(content):
        cache.write_bytes(damaged)
        assert noticed(), kind
        tried += 1
    survived("a damaged cache of decoded images", tried)
