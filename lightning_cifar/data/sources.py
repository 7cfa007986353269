"""What every source of images becomes: a `Dataset` of ``uint8`` tensors; and the smallest source, the digits.

The others are in `cifar`, `folder` and `files`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cifar.errors import InputError

if TYPE_CHECKING:
    from lightning_cifar.data.files import ImageFiles

SourceName = Literal["cifar10", "cifar100", "digits", "folder"]
SIZE = 32  # pixels; every source delivers SIZE x SIZE
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
