"""Tests of BatchLoader and Order: every image once per epoch, in an order that depends only on (seed, epoch)."""

import pytest
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch

from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.data.loader import BatchLoader, Order, choose_device

N = 103


@pytest.fixture(scope="module")
def data() -> ImageSet:
    """Images whose pixels and label equal their index."""
    labels = torch.arange(N)
    return ImageSet(labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4), labels)


def list_order(loader: BatchLoader, epoch: int = 0) -> list[int]:
    loader.sampler.set_epoch(epoch)
    return torch.cat([labels for _, labels in loader]).tolist()


@pytest.mark.parametrize("seed", [None, 0, 7, 2**63])
@pytest.mark.parametrize("batch_size", [1, 10, N, N + 1])
def test_every_image_once_per_epoch(data, seed, batch_size):
    loader = BatchLoader(data, batch_size, seed)
    for epoch in range(3):
        assert sorted(list_order(loader, epoch)) == list(range(N))


def test_images_keep_their_labels(data):
    for images, labels in BatchLoader(data, 10, seed=0):
        assert torch.equal(images, labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4))


def test_last_partial_batch_is_kept(data):
    loader = BatchLoader(data, 10, seed=0)
    assert [len(labels) for _, labels in loader] == [10] * 10 + [3]
    assert len(loader) == 11


@pytest.mark.parametrize(("batch_size", "batches"), [(1, N), (N - 1, 2), (N, 1), (N + 1, 1)])
def test_length_is_the_number_of_batches(data, batch_size, batches):
    loader = BatchLoader(data, batch_size)
    assert len(loader) == len(list(loader)) == batches


def test_order_depends_only_on_seed_and_epoch(data):
    first = list_order(BatchLoader(data, 10, seed=5), epoch=3)
    torch.manual_seed(123)  # must have no effect
    used = BatchLoader(data, 7, seed=5)  # nor the batch size, nor earlier iterations
    list_order(used, epoch=0)
    assert list_order(used, epoch=3) == first


def test_iterating_does_not_use_the_global_generator(data):
    state = torch.get_rng_state()
    list_order(BatchLoader(data, 10, seed=5))
    assert torch.equal(torch.get_rng_state(), state)


def test_epoch_does_not_advance_by_itself(data):
    loader = BatchLoader(data, 10, seed=5)
    assert list_order(loader) == [label for _, labels in loader for label in labels.tolist()]


def test_orders_of_all_seeds_and_epochs_differ(data):
    orders = {tuple(list_order(BatchLoader(data, 10, seed), epoch)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400


def test_next_epoch_is_not_the_next_seed(data):
    assert list_order(BatchLoader(data, 10, seed=0), epoch=1) != list_order(BatchLoader(data, 10, seed=1), epoch=0)


def test_without_a_seed_the_order_is_that_of_the_set(data):
    loader = BatchLoader(data, 10)
    assert list_order(loader, 0) == list_order(loader, 1) == list(range(N))


def test_lightning_sets_the_epoch(data):
    loader = BatchLoader(data, 10, seed=0)
    _set_sampler_epoch(loader, 4)
    assert loader.sampler.epoch == 4


@pytest.mark.parametrize(("batch_size", "batches"), [(1, N), (10, 10), (N - 1, 1), (N, 1)])
def test_drop_last_drops_a_partial_batch(data, batch_size, batches):
    loader, whole = BatchLoader(data, batch_size, seed=0, drop_last=True), BatchLoader(data, batch_size, seed=0)
    assert [len(labels) for _, labels in loader] == [batch_size] * batches
    assert len(loader) == batches
    assert list_order(loader) == list_order(whole)[: batches * batch_size]


def test_positions_are_those_of_the_images_in_the_set(data):
    backwards = ImageSet(data.images.flip(0), data.labels.flip(0))
    for images, labels, positions in BatchLoader(backwards, 10, seed=0, positions=True):
        assert torch.equal(backwards.images[positions], images)
        assert torch.equal(backwards.labels[positions], labels)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batches_are_channels_last_for_any_layout_of_the_set(layout):
    images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8).contiguous(memory_format=layout)
    ((batch, labels),) = BatchLoader(ImageSet(images, torch.arange(10)), 10, seed=0)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, images[labels])


def test_a_set_that_is_channels_last_is_not_copied():
    images = torch.zeros(10, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert BatchLoader(ImageSet(images, torch.arange(10)), 10).pixels.data_ptr() == images.data_ptr()


def test_order_is_a_sampler_for_a_dataloader():
    sampler = Order(N, seed=5)
    sampler.set_epoch(3)
    assert list(sampler) == sampler.draw()[0].tolist() != list(Order(N, seed=5))
    assert len(sampler) == N


def test_batches_are_on_the_given_device(data):
    loader = BatchLoader(data, 10, seed=0, positions=True, device="meta")
    assert {tensor.device.type for batch in loader for tensor in batch} == {"meta"}


@pytest.mark.parametrize(
    ("device", "free", "expected"),
    [("cpu", 0, "cpu"), ("mps", 0, "cpu"), ("cuda:1", 1.0, "cpu"), ("cuda:1", 1.99, "cpu"), ("cuda:1", 2.0, "cuda:1")],
)
def test_the_set_is_on_the_gpu_if_it_fits_into_half_of_the_free_memory(data, monkeypatch, device, free, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * data.images.nbytes), 10**12))
    assert choose_device(data, torch.device(device)) == torch.device(expected)


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_the_cpu(data):
    assert choose_device(data, torch.device("cuda")).type == "cuda"
    pairs = zip(BatchLoader(data, 10, 0, device="cuda"), BatchLoader(data, 10, 0), strict=True)
    for (images, labels), (expected_images, expected_labels) in pairs:
        assert images.device.type == labels.device.type == "cuda"
        assert torch.equal(images.cpu(), expected_images)
        assert torch.equal(labels.cpu(), expected_labels)


def test_drop_last_needs_one_full_batch(data):
    with pytest.raises(ValueError, match=f"batch_size must be at most the {N} images .* got {N + 1}$"):
        BatchLoader(data, N + 1, drop_last=True)


@pytest.mark.parametrize("batch_size", [0, -5])
def test_bad_batch_size_is_named(data, batch_size):
    with pytest.raises(ValueError, match=f"batch_size .* {batch_size}$"):
        BatchLoader(data, batch_size)
