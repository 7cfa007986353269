"""Where images come from: CIFAR-10 and CIFAR-100 through torchvision, scikit-learn's digits, or an image folder.

Every source becomes the same thing, a `Dataset` of ``uint8`` tensors in memory.
"""

import errno
import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from lightning_cifar.errors import InputError

if TYPE_CHECKING:
    from lightning_cifar.data.files import ImageFiles

SourceName = Literal["cifar10", "cifar100", "digits", "folder"]
SIZE = 32  # pixels; every source delivers SIZE x SIZE
TIMEOUT = 30  # seconds without a byte before a download is given up
DIGITS_TEST = 360  # a fifth of the 1,797 digits: scikit-learn ships no test set


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: ``images`` uint8 (N, 3, 32, 32), channels-last in memory, ``labels`` int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor | slice) -> "ImageSet":
        return ImageSet(self.images[indices], self.labels[indices])

    def sample(self, size: int) -> "ImageSet":
        """``size`` of them, evenly spaced, so that of a sorted set every class gives its share; all, if fewer."""
        return self[spaced(len(self), size)]

    def chunks(self) -> Iterator[Any]:
        """What `Dataset.fingerprint` covers: all pixels, image by image and channel by channel, and all labels."""
        for part in self.images.split(1000):
            yield part.contiguous().numpy().data
        yield self.labels.numpy().data


def spaced(length: int, size: int) -> Tensor:
    """``size`` positions in ``range(length)``, evenly from the first to the last; all, if there are fewer."""
    return torch.linspace(0, length - 1, min(size, length), dtype=torch.float64).round().long()


@dataclass(frozen=True)
class Dataset:
    """Training and test images, validation images where the source has its own, and the names of the classes."""

    train: "ImageSet | ImageFiles"
    val: "ImageSet | ImageFiles | None"
    test: "ImageSet | ImageFiles"
    class_names: tuple[str, ...]

    def fingerprint(self) -> str:
        """SHA-256 of all pixels, labels and class names: equal fingerprints, equal data.

        `ImageFiles`, which may be too many to read, are told apart by class, name and size.
        """
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for part in (self.train, self.val, self.test):
            for chunk in part.chunks() if part is not None else ():
                digest.update(chunk)
        return digest.hexdigest()


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits ``range(len(labels))`` into (rest, held out), both ascending, with ``size`` indices held out.

    Every class gives its share, rounded so that the sum is exact (largest remainders first).

    Raises:
        ValueError: ``size`` is negative or leaves no image for training.
    """
    if not 0 <= size < len(labels):
        raise ValueError(f"size must be at least 0 and below the {len(labels)} images there are, got {size}")
    counts = torch.bincount(labels)
    shares = counts.double() * size / len(labels)
    quota = shares.floor().long()
    quota[(shares - quota).argsort(descending=True, stable=True)[: size - int(quota.sum())]] += 1
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    held_out = torch.cat([order[labels[order] == label][:take] for label, take in enumerate(quota.tolist())])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[held_out] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def load_digits() -> Dataset:
    """scikit-learn's 1,797 digits, 8x8 in 17 greys, enlarged to 32x32 RGB; a fixed stratified fifth is the test set."""
    try:
        from sklearn import datasets
    except ImportError:
        raise InputError("the dataset 'digits' needs scikit-learn: pip install 'lightning-cifar[digits]'") from None
    digits = datasets.load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)  # (N, 1, 8, 8)
    large = F.interpolate(grey, size=(SIZE, SIZE), mode="bilinear").round().clamp(0, 255)
    images = large.to(torch.uint8).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    everything = ImageSet(images, torch.from_numpy(digits.target).long())
    train, test = stratified_split(everything.labels, DIGITS_TEST, seed=0)
    names = tuple(str(name) for name in digits.target_names)
    return Dataset(everything[train], None, everything[test], names)


def load_cifar(
    name: Literal["cifar10", "cifar100"], root: Path, url: str | None = None, archive: Path | None = None
) -> Dataset:
    """CIFAR-10 or CIFAR-100 from ``root``, put there first if need be by `install_cifar`."""
    torchvision_class = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder = root / torchvision_class.base_folder
    if not folder.exists():
        install_cifar(torchvision_class, root, url, archive)
    try:
        parts = [torchvision_class(root, train=train) for train in (True, False)]
    except RuntimeError:  # torchvision: a batch is missing or its MD5 is another
        raise InputError(f"{folder} is incomplete or altered: delete it, and it is installed again") from None
    train, test = (
        ImageSet(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last),
            torch.tensor(part.targets, dtype=torch.int64),
        )
        for part in parts
    )
    return Dataset(train, None, test, tuple(parts[0].classes))


def install_cifar(torchvision_class: type[CIFAR10], root: Path, url: str | None, archive: Path | None) -> None:
    """Puts the extracted batches under ``root``, whole or not at all.

    Taken from, in this order: ``archive``, the archive under its own name in ``root``, ``url`` (default: the
    authors' host). The archive must have the published MD5.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as incoming:
            source = archive or root / torchvision_class.filename
            if archive is None and not source.exists():
                source = Path(incoming) / torchvision_class.filename
                download(url or torchvision_class.url, source, torchvision_class)
            if not source.is_file():
                raise InputError(f"--data.archive {source}: no such file")
            if not check_integrity(str(source), torchvision_class.tgz_md5):
                raise InputError(
                    f"{source if source.parent != Path(incoming) else url or torchvision_class.url} is truncated or "
                    f"altered: it is not the published {torchvision_class.filename}; get it again or name another "
                    "source by --data.url or --data.archive"
                )
            with tarfile.open(source) as tar:
                tar.extractall(incoming, filter="data")
            try:
                os.replace(Path(incoming) / torchvision_class.base_folder, root / torchvision_class.base_folder)
            except OSError:
                if not (root / torchvision_class.base_folder).is_dir():  # else another process was faster
                    raise
    except OSError as error:
        raise InputError(
            f"cannot write the data directory {root}: {error.strerror or error}; name one that can be written "
            "by --data.root or LIGHTNING_CIFAR_DATA"
        ) from error


def download(url: str, target: Path, torchvision_class: type[CIFAR10]) -> None:
    """Copies ``url`` to the file ``target``, with a progress bar on a terminal."""
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT) as response,
            tqdm.wrapattr(
                response, "read", total=int(response.headers.get("Content-Length", 0)) or None, desc=url, disable=None
            ) as body,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(body, file, 1 << 20)
    except (OSError, ValueError, HTTPException) as error:  # URLError and timeouts are OSErrors; a bad URL a ValueError
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise  # the disk's fault, not the network's
        if isinstance(error, HTTPError):
            error.close()
        raise InputError(
            f"cannot download {url} ({getattr(error, 'reason', None) or error}). Three ways out: --data.url MIRROR, "
            f"--data.archive {torchvision_class.filename}, or --data.root DIR holding {torchvision_class.base_folder}"
        ) from error
