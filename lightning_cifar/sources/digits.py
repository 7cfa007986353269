"""scikit-learn's handwritten digits: a small dataset that needs no download."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from lightning_cifar.data.dataset import Dataset, ImageSet, stratified_split
from lightning_cifar.data.square import SIZE
from lightning_cifar.errors import require_extra
from lightning_cifar.sources.enlargement import enlarge_dataset

DIGITS_TEST = 360  # a fifth of the 1,797 digits: scikit-learn ships no test set


def load(options: Mapping[str, Any], root: Path) -> Dataset:
    return enlarge_dataset(load_digits(), options["image_size"])


def count_classes(options: Mapping[str, Any], root: Path) -> int:
    return 10


def load_digits() -> Dataset:
    """Return the 1,797 digits, 8x8 in 17 greys, enlarged to 32x32 RGB; a fixed stratified fifth is the test set."""
    require_extra("the dataset 'digits' of scikit-learn", "digits", ["sklearn"])
    from sklearn import datasets

    digits = datasets.load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)  # (N, 1, 8, 8)
    large = F.interpolate(grey, size=(SIZE, SIZE), mode="bilinear").round().clamp(0, 255)
    images = large.to(torch.uint8).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    everything = ImageSet(images, torch.from_numpy(digits.target).long())
    train, test = stratified_split(everything.labels, DIGITS_TEST, seed=0)
    names = tuple(str(name) for name in digits.target_names)
    return Dataset(everything[train], None, everything[test], names)
