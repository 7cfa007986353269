"""Tests of image folders read from disk: batches and errors equal those of the folder in memory."""

import multiprocessing

import pytest
import torch
from torch.utils.data import DistributedSampler

from lightning_cifar import main
from lightning_cifar.data.loader import BatchLoader
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.distributed import Shard
from lightning_cifar.sources.folder import load_folder
from lightning_cifar.sources.streaming import ImageFiles


def read_files(folder):
    return load_folder(folder, in_memory=False)


def are_equal(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches_equal_those_of_the_batch_loader(image_folder, seed, drop_last, workers):
    options = {"seed": seed, "drop_last": drop_last, "positions": True}
    lazy = read_files(image_folder).train.make_loader(7, num_workers=workers, **options)
    eager = BatchLoader(load_folder(image_folder).train, 7, **options)
    assert len(lazy) == len(eager)
    for epoch in (0, 4):
        for loader in (lazy, eager) if seed is not None else ():
            loader.sampler.set_epoch(epoch)
        batches = list(lazy)
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images, *_ in batches)
        assert all(are_equal(one, other) for one, other in zip(batches, eager, strict=True))


@pytest.mark.parametrize(("batch_size", "drop_last"), [(6, False), (7 + 1, True)])
def test_shards_equal_those_of_the_batch_loader(image_folder, batch_size, drop_last):
    whole = list(BatchLoader(load_folder(image_folder).train, batch_size, 3, drop_last))
    parts = []
    for rank in range(2):
        options = {"seed": 3, "drop_last": drop_last, "shard": Shard(rank, 2)}
        lazy = read_files(image_folder).train.make_loader(batch_size, **options)
        eager = BatchLoader(load_folder(image_folder).train, batch_size, **options)
        assert len(lazy) == len(eager) == len(whole)
        parts.append(list(eager))
        for one, other in zip(lazy, parts[-1], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for (images, labels), *shards in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([shard[0] for shard in shards]), images)
        assert torch.equal(torch.cat([shard[1] for shard in shards]), labels)


def test_lightning_does_not_divide_the_batches_again(image_folder):
    loader = read_files(image_folder).train.make_loader(6, shard=Shard(0, 2))
    assert isinstance(loader.sampler, DistributedSampler)  # Lightning replaces any other with use_distributed_sampler


def test_batches_without_positions_are_pairs_of_images_and_labels(image_folder):
    (batch,) = read_files(image_folder).test.make_loader(10)
    assert are_equal(batch, (load_folder(image_folder).test.images, load_folder(image_folder).test.labels))


def test_parts_names_and_labels_equal_those_in_memory(image_folder):
    lazy, eager = read_files(image_folder), load_folder(image_folder)
    assert lazy.class_names == eager.class_names
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(lazy, name).labels, getattr(eager, name).labels)
        assert len(getattr(lazy, name)) == len(getattr(eager, name))


@pytest.mark.parametrize("indices", [slice(3, 9), torch.tensor([5, 0, 11])], ids=["slice", "tensor"])
def test_a_subset_equals_that_in_memory(image_folder, indices):
    lazy, eager = read_files(image_folder).train[indices], load_folder(image_folder).train[indices]
    (batch,) = lazy.make_loader(20)
    assert are_equal(batch, (eager.images, eager.labels))


@pytest.mark.parametrize("size", [1, 5, 18, 100])
def test_sample_equals_that_in_memory(image_folder, size):
    lazy, eager = (read(image_folder).train.sample(size) for read in (read_files, load_folder))
    assert are_equal((lazy.images, lazy.labels), (eager.images, eager.labels))


def test_iterating_does_not_use_the_global_generator(image_folder):
    loader, state = read_files(image_folder).train.make_loader(7, seed=0), torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_fingerprint_covers_names_and_sizes(image_folder):
    before = read_files(image_folder).fingerprint()
    assert read_files(image_folder).fingerprint() == before
    moved = image_folder.rename(image_folder.parent / "elsewhere")
    assert read_files(moved).fingerprint() == before
    file = moved / "test" / "dog" / "image-00.bmp"
    file.write_bytes(file.read_bytes() + b"0")
    assert read_files(moved).fingerprint() != before


def test_file_names_need_not_be_utf_8(image_folder):
    odd = image_folder / "test" / "cat" / b"caf\xe9.bmp".decode("utf-8", "surrogateescape")
    (image_folder / "test" / "cat" / "image-00.bmp").rename(odd)
    (batch,) = read_files(image_folder).test.make_loader(10)
    assert torch.equal(batch[0], load_folder(image_folder).test.images)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_bad_file_is_named_in_one_line(image_folder, bad_input, workers):
    file = image_folder / "train" / "cat" / "image-03.bmp"
    file.write_bytes(b"not an image")
    loader = read_files(image_folder).train.make_loader(7, num_workers=workers)
    with bad_input(file, "(not an image)"):
        list(loader)


def test_bad_batch_size_is_named(image_folder, bad_input):
    with bad_input("batch_size", "got 0"):
        read_files(image_folder).train.make_loader(0)


@pytest.mark.parametrize("make", [ImageFiles.make_loader, lambda files, size: BatchLoader(files.sample(9), size)])
def test_a_state_that_is_no_number_of_batches_is_refused(image_folder, bad_input, make):
    with bad_input("the number of batches in the checkpoint must be at least 0, got -1"):
        make(read_files(image_folder).train, 7).load_state_dict({"batch": -1})


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shard", [Shard(), Shard(0, 2), Shard(1, 2)], ids=str)
def test_files_give_the_batches_of_the_set_in_memory(image_folder, workers, shard):
    options = {"seed": 3, "balanced": True, "positions": True, "shard": shard}
    eager = BatchLoader(load_folder(image_folder).train, 6, **options)
    lazy = load_folder(image_folder, in_memory=False).train.make_loader(6, num_workers=workers, **options)
    for epoch in (0, 1):
        for loader in (eager, lazy):
            loader.sampler.set_epoch(epoch)
        for one, other in zip(lazy, eager, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_workers_send_no_tensors_through_shared_memory(image_folder):
    """A full /dev/shm would hang them."""
    data = CIFAR10DataModule("folder", root=str(image_folder), in_memory=False)
    data.setup()
    assert all(not isinstance(part, torch.Tensor) for part in data.train.__getitems__([0, 1]))


def test_workers_without_dev_shm_are_one_line(image_folder, tiny, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    data = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.in_memory", "false"]
    monkeypatch.setattr(multiprocessing, "Lock", fail)
    assert main(["fit", *tiny, *data, "--data.num_workers", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data.num_workers 1 needs room in /dev/shm (No space left on device)" in line
