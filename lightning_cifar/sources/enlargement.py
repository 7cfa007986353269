"""Images of 32x32 pixels, enlarged to ``image_size``."""

from dataclasses import replace

import torch
from torchvision.transforms.v2.functional import resize

from lightning_cifar.data.dataset import Dataset, ImageSet, LabelledImages
from lightning_cifar.data.square import SIZE
from lightning_cifar.errors import InputError
from lightning_cifar.sources.memory import find_shortage


def enlarge_dataset(dataset: Dataset, size: int) -> Dataset:
    """Return the dataset with images of ``size`` pixels; `InputError` if they need too much memory."""
    if size == SIZE:
        return dataset
    if shortage := find_shortage(len(dataset.train) + len(dataset.test), size):
        raise InputError(f"image_size {size}: {shortage}; set a smaller one")
    return replace(dataset, train=enlarge(dataset.train, size), test=enlarge(dataset.test, size))


def enlarge(data: LabelledImages, size: int) -> ImageSet:
    """Return the images at ``size`` pixels, bilinear."""
    assert isinstance(data, ImageSet)
    images = torch.empty(len(data), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for large, small in zip(images.split(1000), data.images.split(1000), strict=True):
        large.copy_(resize(small, [size, size]))
    return ImageSet(images, data.labels)
