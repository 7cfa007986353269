"""Dataset: the training, validation and test images of a source, and how some are held out.

The sources are `cifar`, `folder`, `streaming` and `digits`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

SourceName = Literal["cifar10", "cifar100", "digits", "folder"]


class LabelledImages(Protocol):
    """Images with labels: an `ImageSet` in memory, or `ImageFiles` that are read when they are needed."""

    @property
    def labels(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor | slice) -> Self: ...
    def sample(self, size: int) -> "ImageSet": ...
    def chunks(self) -> Iterator[Any]: ...


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

    train: LabelledImages
    val: LabelledImages | None
    test: LabelledImages
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
