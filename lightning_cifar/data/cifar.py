"""CIFAR-10 and CIFAR-100 from the archives that their authors publish; torchvision knows their names and digests.

They are pickles, which can run code when they are read. These are read by `ArraysOnly`, which cannot.
"""

import os
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from lightning_cifar.data.dataset import Dataset, ImageSet
from lightning_cifar.data.download import download
from lightning_cifar.errors import InputError
from lightning_cifar.files import digest_of, one_at_a_time

SETS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}  # by --data.dataset
PUBLISHED = {  # archives: bytes, and SHA-256, where torchvision has the MD5
    "cifar-10-python.tar.gz": (170498071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    "cifar-100-python.tar.gz": (169001437, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),
}


def load_cifar(
    name: Literal["cifar10", "cifar100"], root: Path, url: str | None = None, archive: Path | None = None
) -> Dataset:
    """CIFAR-10 or CIFAR-100 from ``root``, put there first if need be by `install_cifar`.

    Raises:
        InputError: it cannot be, or what is there is not what was published.
    """
    published = SETS[name]
    folder = root / published.base_folder
    if not folder.exists():
        install_cifar(published, root, url, archive)
    for file, md5 in members(published):
        if not check_integrity(str(folder / file), md5):
            raise InputError(f"{folder} is incomplete or altered: delete it, and it is installed again")
    try:
        train, test = (
            joined([read_batch(folder / file) for file, _ in batches])
            for batches in (published.train_list, published.test_list)
        )
        names = read_pickle(folder / published.meta["filename"])[published.meta["key"]]
    except (pickle.UnpicklingError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{folder} does not hold images ({error}): delete it, and it is installed again") from error
    return Dataset(train, None, test, tuple(str(one) for one in names))


def members(published: type[CIFAR10]) -> Iterator[tuple[str, str]]:
    """The files that are read, and their MD5."""
    yield from ((file, md5) for file, md5 in (*published.train_list, *published.test_list))
    yield published.meta["filename"], published.meta["md5"]


def read_batch(file: Path) -> tuple[np.ndarray, list[int]]:
    """Images (N, 3, 32, 32), and labels."""
    batch = read_pickle(file)
    images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    return images, list(batch["labels"] if "labels" in batch else batch["fine_labels"])


def joined(batches: list[tuple[np.ndarray, list[int]]]) -> ImageSet:
    images: Tensor = torch.from_numpy(np.concatenate([images for images, _ in batches]))
    labels = torch.tensor([label for _, labels in batches for label in labels], dtype=torch.int64)
    return ImageSet(images.contiguous(memory_format=torch.channels_last), labels)


class ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays, beside Python's plain values; any other object is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, as Python 3 writes them for 2
        }
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            known[module, "_reconstruct"] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return known[module, name]


def read_pickle(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        content = ArraysOnly(opened, encoding="latin1").load()
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def install_cifar(published: type[CIFAR10], root: Path, url: str | None, archive: Path | None) -> None:
    """Puts the extracted batches under ``root``, whole or not at all; of several processes, one does.

    Taken from, in this order: ``archive``, the archive under its own name in ``root``, ``url`` or several of them by
    commas, the authors' host where none is given. The archive must be the published one, by its SHA-256.
    """
    size, digest = PUBLISHED[published.filename]
    own, partial = root / published.filename, root / f".{published.filename}.partial"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(root / f".{published.filename}.lock", "prepares the data"):
            if (root / published.base_folder).is_dir():
                return  # another process was faster
            if archive is not None or own.exists():
                check_archive(archive or own, published.filename, digest)
                unpack(archive or own, published, root)
            else:
                urls = url.split(",") if url else [published.url]
                remedy = (
                    f"Three ways out: --data.url MIRROR, --data.archive {published.filename}, "
                    f"or --data.root DIR holding {published.base_folder}"
                )
                unpack(download(urls, partial, size, digest, remedy), published, root)
                partial.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write the data directory {root}: {error.strerror or error}; name one that can be written "
            "by --data.root or LIGHTNING_CIFAR_DATA"
        ) from error


def check_archive(archive: Path, name: str, digest: str) -> None:
    if not archive.is_file():
        raise InputError(f"--data.archive {archive}: no such file")
    if digest_of(archive) != digest:
        raise InputError(
            f"{archive} is truncated or altered: it is not the published {name}; get it again or name another source "
            "by --data.url or --data.archive"
        )


def unpack(archive: Path, published: type[CIFAR10], root: Path) -> None:
    """Of the archive, the files that are read, and nothing else that it may hold."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as incoming, tarfile.open(archive) as tar:
        folder = Path(incoming) / published.base_folder
        folder.mkdir()
        for name, _ in members(published):
            content = tar.extractfile(f"{published.base_folder}/{name}")
            if content is None:
                raise InputError(f"{archive} has no file {name}")
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(content, file)
        os.replace(folder, root / published.base_folder)
