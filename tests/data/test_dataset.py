"""Tests of the stratified split, the containers and the digits."""

import time

import pytest
import torch

from lightning_cifar.data.dataset import ImageSet, stratified_split

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


@pytest.mark.parametrize(("size", "labels"), [(1, [0]), (4, [0, 3, 6, 9]), (10, [*range(10)]), (11, [*range(10)])])
def test_sample_is_evenly_spaced(size, labels):
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    sample = ImageSet(images, torch.arange(10)).sample(size)
    assert sample.labels.tolist() == sample.images[:, 0, 0, 0].tolist() == labels
