"""scikit-learn's digits: pixels, split, and larger images of them."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar import CIFAR10DataModule
from lightning_cifar.sources.digits import load_digits


def test_digits_are_32x32_rgb_in_the_full_range():
    digits = load_digits()
    for part, count in ((digits.train, 1437), (digits.test, 360)):
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (count, 3, 32, 32)
        assert part.images.is_contiguous(memory_format=torch.channels_last)
        assert (part.images.min(), part.images.max()) == (0, 255)
        assert torch.equal(part.images[:, 0], part.images[:, 1])
        assert torch.equal(part.images[:, 0], part.images[:, 2])
        assert part.labels.dtype == torch.int64
    assert digits.val is None
    assert digits.class_names == tuple("0123456789")


@pytest.mark.slow
def test_every_digit_is_in_one_part_enlarged_as_by_pillow():
    from sklearn import datasets

    digits, original = load_digits(), datasets.load_digits()
    large = [
        np.asarray(Image.fromarray(grey.astype(np.float32) * 255 / 16).resize((32, 32), Image.Resampling.BILINEAR))
        for grey in original.images
    ]
    expected = sorted((np.rint(x).astype(np.uint8).tobytes(), y) for x, y in zip(large, original.target, strict=True))
    found = sorted(
        (image[0].numpy().tobytes(), int(label))
        for part in (digits.train, digits.test)
        for image, label in zip(part.images, part.labels, strict=True)
    )
    assert len(found) == len({pixels for pixels, _ in found}) == 1797  # all distinct, so train and test are disjoint
    assert found == expected


def test_digits_test_set_is_stratified():
    digits = load_digits()
    counts = digits.train.labels.bincount() + digits.test.labels.bincount()
    assert ((digits.test.labels.bincount() - counts / 1797 * 360).abs() < 1).all()


def test_digits_do_not_depend_on_the_seed():
    torch.manual_seed(1)
    first = load_digits().fingerprint()
    torch.manual_seed(2)
    assert load_digits().fingerprint() == first


def test_digits_without_scikit_learn_names_the_extra(monkeypatch, bad_input):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with bad_input("digits", "scikit-learn", "pip install 'lightning-cifar[digits]'"):
        load_digits()


def test_digits_are_enlarged():
    small, large = (CIFAR10DataModule("digits", image_size=size) for size in (32, 64))
    small.setup()
    large.setup()
    assert large.test.images.shape == (360, 3, 64, 64)
    assert torch.equal(large.train.labels, small.train.labels)
    assert (large.test.images[:, :, ::2, ::2].int() - small.test.images.int()).abs().max() < 64


def test_images_that_cannot_be_enlarged_in_memory_are_refused(monkeypatch, bad_input):
    monkeypatch.setattr("lightning_cifar.sources.memory.measure_memory", lambda: 10_000_000)
    with bad_input("image_size 64", "1,797 images of 64x64 pixels need 0.0221 GB", "set a smaller one"):
        CIFAR10DataModule("digits", image_size=64).setup()
