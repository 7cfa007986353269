"""The dataset that the arguments of `CIFAR10DataModule` name, with images of their size."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2.functional import resize

from lightning_cifar.data.cifar import load_cifar
from lightning_cifar.data.dataset import Dataset, ImageSet, LabelledImages
from lightning_cifar.data.digits import load_digits
from lightning_cifar.data.folder import list_classes, load_folder
from lightning_cifar.data.images import SIZE, Square
from lightning_cifar.data.memory import find_shortage
from lightning_cifar.errors import InputError, list_some

NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}


def load_dataset(options: Mapping[str, Any], root: Path) -> Dataset:
    """Read the dataset from ``root``; images that all have 32x32 pixels are enlarged."""
    name, size = options["dataset"], options["image_size"]
    if name == "folder":
        labels, square = find_labels(options["labels"], root), Square(size, options["non_square"])
        return load_folder(root, labels, square, options["in_memory"], options["classes"], options["split_seed"])
    archive = options["archive"] and Path(os.path.expanduser(options["archive"]))
    dataset = load_digits() if name == "digits" else load_cifar(name, root, options["url"], archive)
    if size == SIZE:
        return dataset
    if shortage := find_shortage(len(dataset.train) + len(dataset.test), size):
        raise InputError(f"image_size {size}: {shortage}; set a smaller one")
    return replace(dataset, train=enlarge(dataset.train, size), test=enlarge(dataset.test, size))


def count_classes(options: Mapping[str, Any], root: Path) -> int:
    """Return the number of classes; reads no images. `InputError` if a model's ``classes`` are more or fewer."""
    count, known = NUM_CLASSES.get(options["dataset"]), options["classes"]
    if count is None:
        count = len(list_classes(root, find_labels(options["labels"], root), known))
    if known and len(known) != count:
        names = f"{len(known)} classes ({list_some(known)})"
        raise InputError(f"the model has {names}, the data {count}: name data with its classes")
    return count


def find_labels(labels: str | None, root: Path) -> Path | None:
    """Return the file ``labels``, which may be given relative to ``root``."""
    if labels is None:
        return None
    file = Path(os.path.expanduser(labels))
    return root / file if not file.exists() and (root / file).exists() else file


def enlarge(data: LabelledImages, size: int) -> ImageSet:
    """Return the images at ``size`` pixels, bilinear."""
    assert isinstance(data, ImageSet)
    images = torch.empty(len(data), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for large, small in zip(images.split(1000), data.images.split(1000), strict=True):
        large.copy_(resize(small, [size, size]))
    return ImageSet(images, data.labels)
