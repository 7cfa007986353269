"""Batches of the data module: order, augmentation under a Trainer, and what evaluation gets."""

import itertools

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_cifar.data import augment as augment_draws
from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.data.loader import BatchLoader, make_generator
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.distributed import Shard
from lightning_cifar.sources.decoding import count_cores
from tests.data.batches import Recorder, are_equal, make_module, record_batches
from tests.trainer import make_quiet_trainer


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("train", [7, 7, 4]), ("val", [2, 1]), ("test", [2, 1]), ("predict", [2, 1])],
)
def test_batches_are_uint8(image_folder, name, sizes):
    module = make_module("folder", str(image_folder), batch_size=7, eval_batch_size=2)
    batches = list(getattr(module, f"{name}_dataloader")())
    assert [images.shape for images, _ in batches] == [(size, 3, 32, 32) for size in sizes]
    assert [labels.shape for _, labels in batches] == [(size,) for size in sizes]
    assert {(images.dtype, labels.dtype) for images, labels in batches} == {(torch.uint8, torch.int64)}


@pytest.mark.parametrize(("name", "part"), [("val", "val"), ("test", "test"), ("predict", "test")])
def test_evaluation_preserves_the_order(image_folder, name, part):
    module = make_module("folder", str(image_folder), eval_batch_size=2)
    batches = list(getattr(module, f"{name}_dataloader")())
    seen = ImageSet(torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches]))
    assert are_equal(seen, getattr(module, part))


def test_training_order_follows_the_runs_seed(image_folder):
    module = make_module("folder", str(image_folder), batch_size=18)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(next(iter(module.train_dataloader()))[0])
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], module.train.images)


@pytest.fixture
def trainer() -> Trainer:
    torch.manual_seed(0)
    return make_quiet_trainer(max_epochs=10)


def augment(image: np.ndarray, padding: int, mirrored: bool, top: int, left: int) -> np.ndarray:
    """Augment one image (3, 32, 32) with NumPy."""
    padded = np.pad(image[:, :, ::-1] if mirrored else image, [(0, 0), (padding,) * 2, (padding,) * 2], mode="reflect")
    return padded[:, top : top + 32, left : left + 32]


@pytest.mark.slow
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
def test_training_images_are_flipped_and_cropped_independently(image_folder, trainer, flip, padding):
    module = CIFAR10DataModule("folder", str(image_folder), batch_size=7, flip=flip, crop_padding=padding)
    recorder = Recorder()
    trainer.fit(recorder, module)

    loader = BatchLoader(module.train, 7, seed=0)
    plain = []
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        plain += list(loader)
    side = range(2 * padding + 1)
    choices = list(itertools.product([False, True] if flip else [False], side, side))
    drawn = []
    for (seen, seen_labels), (images, labels) in zip(recorder.train_batches, plain, strict=True):
        assert torch.equal(seen_labels, labels)
        assert seen.dtype == torch.uint8
        for found, image in zip(seen.numpy(), images.numpy(), strict=True):
            (draw,) = [draw for draw in choices if np.array_equal(found, augment(image, padding, *draw))]
            drawn.append(draw)
    assert set(drawn) == set(choices)  # at most 18 of them, in 180 draws


def test_alternating_flips_are_random_first_and_then_every_other_epoch(image_folder, trainer):
    module, recorder = record_batches(
        trainer, "folder", str(image_folder), batch_size=7, flip="alternating", crop_padding=0
    )
    plain = {image.numpy().tobytes(): position for position, image in enumerate(module.train.images)}
    mirrored = torch.zeros(10, 18, dtype=torch.bool)
    for step, (images, labels) in enumerate(recorder.train_batches):
        for image, label in zip(images, labels, strict=True):
            unflipped = image.numpy().tobytes() in plain
            position = plain[image.numpy().tobytes() if unflipped else image.flip(-1).numpy().tobytes()]
            assert module.train.labels[position] == label
            mirrored[step // 3, position] = not unflipped
    assert 0 < mirrored[0].sum() < 18
    for epoch in range(1, 10):
        assert torch.equal(mirrored[epoch], ~mirrored[epoch - 1])


@pytest.mark.parametrize("flip", [True, "alternating"])
def test_draws_depend_only_on_seed_and_epoch(image_folder, flip):
    options = {"flip": flip, "cutout": 8}
    module = make_module("folder", str(image_folder), batch_size=7, **options)
    draws = {}
    for seed, epoch in itertools.product((1, 2), (0, 1, 2, 3)):
        torch.manual_seed(seed)
        module.train_dataloader()
        torch.rand(epoch)  # the state of the global generator must have no effect
        module.draw_epoch(epoch)
        draws[seed, epoch] = module.draws.clone()
    for one, other in itertools.combinations(draws.values(), 2):
        assert not torch.equal(one[:, 1:3], other[:, 1:3])
        assert not torch.equal(one[:, 3:], other[:, 3:])
    other = make_module("folder", str(image_folder), batch_size=2, in_memory=False, num_workers=0, **options)
    other.train_dataloader()
    for epoch in (3, 0, 2):  # in any order, with any batch size
        other.draw_epoch(epoch)
        assert torch.equal(other.draws, draws[2, epoch])


def test_draws_come_from_another_stream_than_the_shuffle():
    module, epochs = make_module("digits"), range(20)
    torch.manual_seed(3)
    module.train_dataloader()
    shuffles = [augment_draws.draw_flips(len(module.train), make_generator(3, epoch)) for epoch in epochs]
    for epoch in epochs:
        module.draw_epoch(epoch)
        assert not any(torch.equal(module.draws[:, 0].bool(), flips) for flips in shuffles)


def test_draws_are_uniform():
    module = make_module("digits", crop_padding=2)
    module.train_dataloader()
    draws = []
    for epoch in range(20):
        module.draw_epoch(epoch)
        draws.append(module.draws.long())
    draws = torch.stack(draws)  # (20, 1294, 5)
    assert abs(draws[..., 0].float().mean() - 0.5) < 0.015  # five standard deviations
    for column, choices in ((1, 5), (2, 5), (3, 32), (4, 32)):
        counts, expected = draws[..., column].flatten().bincount(), draws[..., column].numel() / choices
        assert len(counts) == choices
        assert (counts - expected).abs().max() < 5 * expected**0.5
    flips = draws[..., 0].bool()
    assert (flips[1:] ^ flips[:-1]).float().mean() == pytest.approx(0.5, abs=0.02)  # independent of the last epoch


@pytest.mark.parametrize("flip", [True, "alternating"])
def test_a_resume_within_an_epoch_needs_no_state_of_a_generator(image_folder, trainer, flip):
    _, recorder = record_batches(trainer, "folder", str(image_folder), batch_size=7, flip=flip, cutout=8)
    torch.manual_seed(0)
    torch.rand(100)
    resumed = make_module("folder", str(image_folder), batch_size=7, flip=flip, cutout=8)
    loader, epoch = resumed.train_dataloader(), 5
    resumed.draw_epoch(epoch)
    loader.positions = True
    loader.sampler.set_epoch(epoch)
    loader.load_state_dict({"batch": 1})
    found = [resumed.augment_batch(images, positions) for images, _, positions in loader]
    expected = [images for images, _ in recorder.train_batches[3 * epoch + 1 : 3 * epoch + 3]]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_draws_stay_in_the_same_memory(image_folder, trainer):
    seen = []

    class Watched(CIFAR10DataModule):
        def augment_batch(self, images, positions):
            seen.append((self.draws.data_ptr(), self.fill.data_ptr(), self.trainer.current_epoch, self.draws.clone()))
            return super().augment_batch(images, positions)

    trainer.fit_loop.max_epochs = 3
    trainer.reload_dataloaders_every_n_epochs = 1
    module = Watched("folder", str(image_folder), batch_size=7)
    trainer.fit(Recorder(), module)
    assert len({(draws, fill) for draws, fill, _, _ in seen}) == 1
    for (_, _, epoch, one), (_, _, next_epoch, other) in itertools.pairwise(seen):
        assert torch.equal(one, other) == (epoch == next_epoch)


def test_augmentation_can_be_replaced_by_a_recording(image_folder, trainer):
    module, calls, recorder = CIFAR10DataModule("folder", str(image_folder), batch_size=7), [], Recorder()

    def replay(images, positions):
        assert torch.equal(images, module.train.images[positions])
        calls.append(positions)
        return images.clone().zero_()

    module.augment = replay
    trainer.fit(recorder, module)
    assert len(calls) == 30
    assert not any(images.any() for images, _ in recorder.train_batches)


class OneDevice(TorchDispatchMode):
    """Mode that refuses operations on tensors of another device; scalars of the CPU become arguments of kernels."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, found)):
            if isinstance(value, torch.Tensor) and value.dim():
                assert value.device.type == self.device, func
        return found


@pytest.mark.parametrize("size", [24, 32])
@pytest.mark.parametrize("flip", [True, "alternating", False])
def test_augmentation_is_computed_on_one_device_without_copies(flip, size):
    """Otherwise a CUDA graph could not record it."""
    module = make_module("digits", flip=flip, cutout=8, sizes=[16, size])
    module.train_dataloader()
    module.draws, module.fill = module.draws.to("meta"), module.fill.to("meta")
    images = torch.empty(16, 3, 32, 32, dtype=torch.uint8, device="meta").contiguous(memory_format=torch.channels_last)
    positions, state = torch.zeros(16, dtype=torch.int64, device="meta"), torch.get_rng_state()
    with OneDevice("meta"):  # on this device, .item() raises an error
        found = module.augment_batch(images, positions)
    assert found.shape == (16, 3, size, size)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("flip", [True, False, "alternating"])
def test_augmentation_equals_a_plain_loop(flip, shards):
    """Each process applies the draws of the positions in its shard."""
    module = make_module("digits", flip=flip, crop_padding=3, cutout=9, batch_size=100, drop_last=True)
    torch.manual_seed(5)
    module.train_dataloader()
    colour = (np.array(module.mean) * 255).round().astype(np.uint8)
    for epoch in (0, 1):
        module.draw_epoch(epoch)
        for rank in range(shards):
            loader = BatchLoader(module.train, 100, 5, drop_last=True, positions=True, shard=Shard(rank, shards))
            loader.sampler.set_epoch(epoch)
            images, _, positions = next(iter(loader))
            found = module.augment_batch(images, positions)
            for image, position, result in zip(images.numpy(), positions, found.numpy(), strict=True):
                mirrored, *corner, row, column = module.draws[position].tolist()
                expected = augment(image, 3, bool(mirrored), *corner).copy()
                expected[:, max(0, row - 4) : row + 5, max(0, column - 4) : column + 5] = colour[:, None, None]
                assert np.array_equal(result, expected)
            assert flip or not module.draws[:, 0].any()


def test_cutout_paints_one_square_in_the_mean_colour_on_each_image(image_folder, trainer):
    options = {"batch_size": 18, "flip": False, "crop_padding": 0, "cutout": 6}
    module, recorder = record_batches(trainer, "folder", str(image_folder), **options)
    colour = (torch.tensor(module.mean) * 255).round().to(torch.uint8)
    loader, corners = BatchLoader(module.train, 18, seed=0), set()
    for epoch, (seen, _) in enumerate(recorder.train_batches):
        loader.sampler.set_epoch(epoch)
        ((images, _),) = loader
        for found, image in zip(seen, images, strict=True):
            rows, columns = (found != image).any(0).nonzero().unbind(1)
            top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
            assert bottom - top <= 6
            assert right - left <= 6
            assert (found[:, top:bottom, left:right] == colour[:, None, None]).all()
            corners.add((int(top), int(left)))
    assert len(corners) > 90  # of 180 draws, over 29 times 29 corners and more at the edges


@pytest.mark.parametrize("in_memory", [True, False])
def test_drop_last_drops_the_partial_training_batch(image_folder, in_memory):
    options = {"drop_last": True, "in_memory": in_memory, "num_workers": 0}
    module = make_module("folder", str(image_folder), batch_size=7, eval_batch_size=2, **options)
    assert [len(labels) for _, labels in module.train_dataloader()] == [7, 7]
    assert [len(labels) for _, labels in module.val_dataloader()] == [2, 1]


@pytest.mark.parametrize(("num_workers", "expected"), [(None, count_cores()), (0, 0), (1, 1)])
def test_num_workers_defaults_to_one_per_core(image_folder, num_workers, expected):
    module = make_module("folder", str(image_folder), in_memory=False, num_workers=num_workers)
    assert module.train_dataloader().num_workers == expected


@pytest.mark.parametrize("in_memory", [True, False])
def test_drop_last_needs_one_full_batch(image_folder, bad_input, in_memory):
    module = make_module("folder", str(image_folder), batch_size=19, drop_last=True, in_memory=in_memory)
    with bad_input("drop_last", "batch_size", "18", "got 19"):
        module.train_dataloader()


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")  # Lightning's, for num_workers=0
@pytest.mark.parametrize("flip", [True, "alternating"])
def test_training_batches_from_disk_equal_those_from_memory(image_folder, tmp_path, flip):
    runs = []
    for in_memory in (True, False):
        torch.manual_seed(0)
        options = {"batch_size": 7, "flip": flip, "cutout": 4, "in_memory": in_memory, "num_workers": 0}
        runs.append(record_batches(make_quiet_trainer(max_epochs=3), "folder", str(image_folder), **options))
    (one, recorded), (other, also_recorded) = runs
    assert (one.mean, one.std) == (other.mean, other.std)  # the sample is the whole set here
    for name in ("train_batches", "other_batches"):
        pairs = zip(getattr(recorded, name), getattr(also_recorded, name), strict=True)
        assert all(torch.equal(a, b) for first, second in pairs for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_only_training_images_are_augmented(image_folder, trainer, stage):
    module, recorder = CIFAR10DataModule("folder", str(image_folder), eval_batch_size=2), Recorder()
    options = {"verbose": False} if stage in ("validate", "test") else {}
    getattr(trainer, stage)(recorder, datamodule=module, **options)
    plain = module.val if stage in ("fit", "validate") else module.test
    expected = list(BatchLoader(plain, 2)) * (11 if stage == "fit" else 1)  # a sanity check and ten epochs
    assert len(recorder.other_batches) == len(expected)
    for (seen, seen_labels), (images, labels) in zip(recorder.other_batches, expected, strict=True):
        assert torch.equal(seen, images)
        assert torch.equal(seen_labels, labels)
