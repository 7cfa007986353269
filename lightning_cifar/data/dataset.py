"""Containers of labelled images, which a source fills, and the stratified split."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_cifar.errors import InputError, check_range, list_some


class StreamedImages(Protocol):
    """Interface of labelled images that are read when they are due.

    ``dataset`` is the dataset of the images: if a file is damaged, up to 50 damaged files of it are named. Options of
    `make_loader` are those of `BatchLoader`, ``dataset``, ``num_workers`` and ``pin_memory``.
    """

    @property
    def labels(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor | slice) -> Self: ...
    def iter_chunks(self) -> Iterator[Any]: ...
    def sample(self, size: int, dataset: "Dataset | None" = None) -> "ImageSet": ...
    def make_loader(self, batch_size: int, *args: Any, **options: Any) -> DataLoader[Any]: ...


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: ``images`` uint8 (N, 3, side, side), channels-last in memory, ``labels`` int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor | slice) -> "ImageSet":
        return ImageSet(self.images[indices], self.labels[indices])

    def sample(self, size: int) -> "ImageSet":
        """Return ``size`` evenly spaced images, so that each class of a sorted set is represented; at most all."""
        return self[select_evenly(len(self), size)]

    def iter_chunks(self) -> Iterator[Any]:
        """Yield all pixels, image by image and channel by channel, and all labels, for `Dataset.fingerprint`."""
        for part in self.images.split(1000):
            yield part.contiguous().numpy().data
        yield self.labels.numpy().data


LabelledImages = ImageSet | StreamedImages


def select_evenly(length: int, size: int) -> Tensor:
    """Return ``size`` positions, evenly spaced from 0 to ``length - 1``; all of them if ``size`` is larger."""
    return torch.linspace(0, length - 1, min(size, length), dtype=torch.float64).round().long()


@dataclass(frozen=True)
class Dataset:
    """Training and test images, validation images if the source has them, and the class names.

    ``split`` is how the test images were chosen, if the source has none; ``test_files`` names those of a folder.
    """

    train: LabelledImages
    val: LabelledImages | None
    test: LabelledImages
    class_names: tuple[str, ...]
    split: str | None = None
    test_files: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return the SHA-256 of class names, pixels and labels: equal fingerprints mean equal data.

        For `StreamedImages`, which may be too many to read, it covers part, class, name and size of each file instead.
        """
        return digest_images((self.train, self.val, self.test), "\n".join(self.class_names))


def digest_images(parts: Iterable[LabelledImages | None], start: str = "") -> str:
    """Return the SHA-256 of ``start``, pixels and labels."""
    digest = hashlib.sha256(start.encode())
    for part in parts:
        for chunk in part.iter_chunks() if part is not None else ():
            digest.update(chunk)
    return digest.hexdigest()


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split ``range(len(labels))`` into (rest, held out), both ascending, with ``size`` indices held out.

    Each class contributes in proportion to its size, rounded by largest remainders so that the sum is ``size``.
    """
    check_range("size", size, f"[0, {len(labels)})", whole=True)
    counts = torch.bincount(labels)
    shares = counts.double() * size / len(labels)
    quota = shares.floor().long()
    quota[(shares - quota).argsort(descending=True, stable=True)[: size - int(quota.sum())]] += 1
    while (full := (quota >= counts) & (counts > 0)).any() and (counts - quota > 1).any():
        # A class would train on no image: hold out one of the class with the most images instead.
        quota[full.nonzero()[0]] -= 1
        quota[(counts - quota).argmax()] += 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    classes = order[labels[order].argsort(stable=True)].split(counts.tolist())  # the images of each, in random order
    held_out = torch.cat([chosen[:take] for chosen, take in zip(classes, quota.tolist(), strict=True)])
    mask = torch.zeros(len(labels), dtype=torch.bool).index_fill(0, held_out, True)
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def hold_out(dataset: Dataset, val_size: int | None, seed: int) -> tuple[Any, Any]:
    """Return training images and ``val_size`` stratified validation images, split off the dataset's training images.

    By default, a tenth is held out, at most 5,000. `InputError` if no training image would be left.
    """
    count = len(dataset.train)
    if count < 2:
        raise InputError(f"there is {count} training image, of which none can be held out: add images, or a folder val")
    size = min(5000, max(1, count // 10)) if val_size is None else val_size
    check_range("val_size", size, f"[1, {count - 1}]", whole=True)
    rest, held_out = stratified_split(dataset.train.labels, size, seed)
    train = dataset.train[rest]
    report_untrained(train.labels, dataset.class_names, "val")
    return train, dataset.train[held_out]


def report_untrained(labels: Tensor, class_names: Sequence[str], part: str) -> None:
    """Print which classes have no training image after ``part`` was split off."""
    present = {*labels.tolist()}
    if empty := [name for index, name in enumerate(class_names) if index not in present]:
        print(f"no training image is left of {list_some(empty)}: add images, or a folder {part}", flush=True)


def measure_channels(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 images (N, C, H, W), in units of [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for part in images.split(1000):  # a channel must be copied to be counted
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.unbind(1)])
    share = counts / counts.sum(1, keepdim=True).double()  # (C, 256): a histogram, exact where sums of squares are not
    mean = share @ levels
    return mean.tolist(), (share * (levels - mean[:, None]).square()).sum(1).sqrt().tolist()
