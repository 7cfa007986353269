"""Tests of the stratified split, the containers and the digits."""

import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar.data.dataset import ImageSet, stratified_split
from lightning_cifar.sources.digits import load_digits

# ------------------------------------------------------------------------------------------------------------- splits

UNBALANCED = torch.repeat_interleave(torch.arange(5), torch.tensor([1, 2, 7, 30, 60]))
LABELS = {
    "balanced": torch.arange(100) % 10,
    "unbalanced": UNBALANCED,
    "shuffled": UNBALANCED[torch.randperm(100, generator=torch.Generator().manual_seed(0))],
    "with a gap": torch.arange(90) % 3 * 2,
    "one class": torch.zeros(20, dtype=torch.int64),
}


@pytest.mark.parametrize("size", [0, 1, 7, 10, 19])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_split_is_disjoint_complete_and_stratified(labels, size):
    rest, held_out = stratified_split(labels, size, seed=0)
    assert len(held_out) == size
    assert sorted(rest.tolist() + held_out.tolist()) == list(range(len(labels)))
    for label in labels.unique():
        share = (labels == label).sum() * size / len(labels)
        assert abs((labels[held_out] == label).sum() - share) < 1


def test_split_is_ascending():
    for part in stratified_split(LABELS["shuffled"], 30, seed=0):
        assert torch.equal(part, part.sort().values)


def test_split_is_exact_if_every_class_divides_evenly():
    _, held_out = stratified_split(LABELS["balanced"], 30, seed=0)
    assert torch.equal(LABELS["balanced"][held_out].bincount(), torch.full((10,), 3))


def test_split_depends_only_on_its_seed():
    splits = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(splits))  # must have no effect
        splits.append(stratified_split(LABELS["balanced"], 30, seed)[1].tolist())
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize("size", [-1, 100, 101])
def test_split_size_out_of_range_is_named(size):
    with pytest.raises(ValueError, match=f"size .* {size}$"):
        stratified_split(LABELS["balanced"], size, seed=0)


def test_a_split_of_very_many_classes_takes_no_time():
    """Comparing all labels with each class took 20 s."""
    labels = torch.arange(20_000) % 5_000
    start = time.perf_counter()
    _, held_out = stratified_split(labels, 5_000, seed=0)
    assert time.perf_counter() - start < 3
    assert torch.equal(labels[held_out].bincount(), torch.ones(5_000, dtype=torch.int64))


# ------------------------------------------------------------------------------------------------------------- digits


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


@pytest.mark.parametrize(("size", "labels"), [(1, [0]), (4, [0, 3, 6, 9]), (10, [*range(10)]), (11, [*range(10)])])
def test_sample_is_evenly_spaced(size, labels):
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    sample = ImageSet(images, torch.arange(10)).sample(size)
    assert sample.labels.tolist() == sample.images[:, 0, 0, 0].tolist() == labels
