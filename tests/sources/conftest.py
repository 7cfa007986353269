"""Fixtures of the tests of sources: a full disk, a `fit` that only reads its folder, archives of CIFAR."""

import hashlib
import io
import pickle
import resource
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from lightning_cifar import main
from lightning_cifar.commands import fit as fit_command
from lightning_cifar.data.dataset import Dataset
from lightning_cifar.sources import cifar


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Return a context in which no file can grow beyond the given number of bytes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def read(image_folder, tiny, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Return a function that runs `fit` until it has read the folder; it returns the status and all lines."""
    monkeypatch.setattr(fit_command, "choose_precision", lambda job: sys.exit(0))
    folder = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.val_size", "1"]

    def run(*args: str) -> tuple[int, str]:
        status = main(["fit", *tiny, *folder, *args])
        output = capsys.readouterr()
        assert status == 0 or len(output.err.splitlines()) == 1
        return status, output.out + output.err

    return run


@dataclass
class Published:
    """A generated archive in place of the published one."""

    name: str
    source: type[CIFAR10]
    archive: Path
    pixels: dict[str, np.ndarray]  # (N, 3, 32, 32), by part
    labels: dict[str, list[int]]
    class_names: tuple[str, ...]

    def equals(self, dataset: Dataset) -> bool:
        return (
            dataset.val is None
            and dataset.class_names == self.class_names
            and all(
                part.images.dtype == torch.uint8
                and part.labels.dtype == torch.int64
                and np.array_equal(part.images.numpy(), self.pixels[name])
                and part.labels.tolist() == self.labels[name]
                for name, part in (("train", dataset.train), ("test", dataset.test))
            )
        )


def pickle_as_published(content: dict) -> bytes:
    """Pickle like Python 2 and NumPy in 2009: old module name, integers for the flags of the dtype."""
    return pickle.dumps(content, 2).replace(b"numpy._core", b"numpy.core").replace(b"\x89\x88\x87", b"K\0K\1\x87", 1)


@pytest.fixture(params=[("cifar10", CIFAR10), ("cifar100", CIFAR100)], ids=["cifar10", "cifar100"])
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    name, source = request.param
    classes = 10 if name == "cifar10" else 100
    rng = np.random.default_rng(classes)
    files: dict[str, bytes] = {}
    pixels, labels = {}, {}
    for part, batches in (("train", source.train_list), ("test", source.test_list)):
        pixels[part] = rng.integers(256, size=(6 * len(batches), 3, 32, 32), dtype=np.uint8)
        labels[part] = rng.integers(classes, size=6 * len(batches)).tolist()
        for index, (file, _) in enumerate(batches):
            chunk = slice(6 * index, 6 * index + 6)
            content = {"data": pixels[part][chunk].reshape(6, 3072), "filenames": ["x.png"] * 6}
            if name == "cifar10":
                content["labels"] = labels[part][chunk]
            else:
                content |= {"fine_labels": labels[part][chunk], "coarse_labels": [0] * 6}
            files[file] = pickle_as_published(content)
    class_names = tuple(f"class {index}" for index in rng.permutation(classes))
    files[source.meta["filename"]] = pickle_as_published({source.meta["key"]: list(class_names)})

    archive = tmp_path / "made.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{source.base_folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

    md5 = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    for batches in ("train_list", "test_list"):
        monkeypatch.setattr(source, batches, [[file, md5[file]] for file, _ in getattr(source, batches)])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5[source.meta["filename"]]})
    content = archive.read_bytes()
    monkeypatch.setitem(cifar.PUBLISHED, source.filename, (len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr(cifar, "MIRRORS", {})
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/")  # the authors' host is never contacted
    return Published(name, source, archive, pixels, labels, class_names)
