"""Tests of the data module: splits, statistics, and batches, including training batches under a Trainer."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms.v2.functional import resize

from lightning_cifar.data import augment as augment_draws
from lightning_cifar.data.dataset import ImageSet, measure_channels
from lightning_cifar.data.decoding import count_cores
from lightning_cifar.data.digits import load_digits
from lightning_cifar.data.loader import BatchLoader, make_generator
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.sizes import find_size
from lightning_cifar.distributed import Shard
from lightning_cifar.run.settings.options import RECIPES
from tests.trainer import make_quiet_trainer


def make_module(*args: object, **options: object) -> CIFAR10DataModule:
    module = CIFAR10DataModule(*args, **options)
    module.prepare_data()
    module.setup()
    return module


def are_equal(one: ImageSet, other: ImageSet) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def list_contents(*parts: ImageSet) -> list[tuple[bytes, int]]:
    """Return pixels and label of every image, sorted."""
    return sorted(
        (image.numpy().tobytes(), int(label))
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    )


@pytest.fixture
def without_val(image_folder: Path) -> Path:
    shutil.rmtree(image_folder / "val")
    return image_folder


# ------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(("name", "given"), [("dataset", "cifar"), ("held_out", "train")])
def test_bad_choice_is_named(bad_input, name, given):
    with bad_input(name, "must be one of", given):
        CIFAR10DataModule(**{name: given})


def test_val_is_cut_from_train():
    digits, module = load_digits(), make_module("digits", val_size=200)
    assert (len(module.train), len(module.val)) == (1237, 200)
    assert list_contents(module.train, module.val) == list_contents(digits.train)
    assert are_equal(module.test, digits.test)


def test_val_is_stratified():
    module = make_module("digits", val_size=200)
    shares = load_digits().train.labels.bincount() * 200 / 1437
    assert ((module.val.labels.bincount() - shares).abs() < 1).all()


def test_split_depends_only_on_split_seed():
    splits = []
    for split_seed in (3, 3, 4):
        torch.manual_seed(len(splits))  # the run's seed must have no effect
        splits.append(list_contents(make_module("digits", val_size=200, split_seed=split_seed).val))
    assert splits[0] == splits[1] != splits[2]


def test_held_out_test_trains_on_everything():
    digits, module = load_digits(), make_module("digits", held_out="test")
    assert are_equal(module.train, digits.train)
    assert are_equal(module.val, digits.test)
    assert are_equal(module.test, digits.test)


def test_the_val_of_a_folder_is_used(image_folder):
    module = make_module("folder", str(image_folder))  # val_size is not used
    assert are_equal(module.val, module.dataset.val)
    assert are_equal(module.train, module.dataset.train)
    assert len(module.val) == 3


def test_held_out_test_ignores_the_val_of_a_folder(image_folder):
    module = make_module("folder", str(image_folder), held_out="test")
    assert are_equal(module.val, module.dataset.test)


def test_a_folder_without_val_is_split(without_val):
    module = make_module("folder", str(without_val), val_size=3)
    assert module.val.labels.tolist() == [0, 0, 1]  # 12 cats, 6 dogs
    assert len(module.train) == 15


def test_default_val_size_is_a_tenth_of_few_images(without_val):
    assert len(make_module("digits").val) == 143
    assert len(make_module("folder", str(without_val)).val) == 1


@pytest.mark.parametrize("val_size", [-1, 0, 18, 19])
def test_bad_val_size_is_named(without_val, bad_input, val_size):
    with bad_input("val_size", f"got {val_size}", "17"):
        make_module("folder", str(without_val), val_size=val_size)


def test_setup_again_keeps_the_split(without_val):
    module = make_module("folder", str(without_val), val_size=3)
    before = module.train, module.val
    module.setup("test")
    assert (module.train, module.val) == before


# --------------------------------------------------------------------------------------------- statistics, fingerprint


def measure_with_numpy(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    values = images.numpy().astype(np.float64) / 255
    return values.mean((0, 2, 3)), values.std((0, 2, 3))


def test_mean_and_std_are_numpys_of_the_training_part(without_val):
    module = make_module("folder", str(without_val), val_size=9)
    mean, std = measure_with_numpy(module.train.images)
    assert module.mean == pytest.approx(mean, abs=1e-6)
    assert module.std == pytest.approx(std, abs=1e-6)
    assert module.mean[0] > module.mean[1] > module.mean[2]  # the folder's blue is the darkest: channels are not mixed
    whole, _ = measure_with_numpy(module.dataset.train.images)
    assert module.mean != pytest.approx(whole, abs=1e-6)  # the held-out images are excluded


@pytest.mark.parametrize(("low", "high"), [(0, 256), (200, 202), (255, 256)], ids=["noise", "low contrast", "white"])
def test_statistics_of_many_images_equal_numpys(low, high):
    images = torch.randint(low, high, (2500, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = measure_with_numpy(images)
    assert measure_channels(images)[0] == pytest.approx(mean, abs=1e-6)
    assert measure_channels(images)[1] == pytest.approx(std, abs=1e-6)


def test_statistics_are_plain_floats(image_folder):
    module = make_module("folder", str(image_folder))
    assert {type(value) for value in [*module.mean, *module.std]} == {float}


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_fingerprint_changes_with_one_pixel(image_folder, part):
    before = make_module("folder", str(image_folder)).dataset.fingerprint()
    assert make_module("folder", str(image_folder)).dataset.fingerprint() == before
    file = image_folder / part / "dog" / "image-00.bmp"
    with Image.open(file) as image:
        pixels = np.array(image)
    pixels[31, 31, 2] ^= 1
    Image.fromarray(pixels).save(file)
    assert make_module("folder", str(image_folder)).dataset.fingerprint() != before


# --------------------------------------------------------------------------------------------------------- construction


@pytest.mark.parametrize(
    ("argument", "variable", "expected"),
    [
        ("here", "there", "here"),
        ("here", None, "here"),
        (None, "there", "there"),
        (None, "", "data"),
        (None, None, "data"),
    ],
)
def test_root_is_the_argument_or_the_variable_or_data(monkeypatch, argument, variable, expected):
    if variable is not None:
        monkeypatch.setenv("LIGHTNING_CIFAR_DATA", variable)
    assert CIFAR10DataModule(root=argument).root == Path(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_padding", -1),
        ("crop_padding", 32),
        ("cutout", -1),
        ("cutout", 33),
        ("batch_size", 0),
        ("eval_batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 10**30),
        ("eval_batch_size", 10**30),
        ("num_workers", -1),
        ("flip", "sometimes"),
        ("batch_size", 64.5),
        ("batch_size", "64"),
        ("crop_padding", 2.5),
        ("cutout", 8.5),
        ("image_size", 33.5),
        ("num_workers", 1.5),
        ("eval_batch_size", True),
        ("split_seed", None),
        ("split_seed", 1.5),
        ("drop_last", "false"),
        ("balanced", "no"),
        ("root", 5),
        ("url", ["http://a", "http://b"]),
        ("archive", 5),
        ("labels", 5),
        ("sizes", 24),
        ("size_shares", 1.0),
        ("classes", "cat, dog"),
    ],
)
def test_bad_argument_is_named(bad_input, name, value):
    with bad_input(name, f"got {value!r}"):
        CIFAR10DataModule(**{name: value})


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_in_memory_false_needs_a_folder(bad_input, dataset):
    with bad_input("in_memory", "folder", dataset):
        CIFAR10DataModule(dataset, in_memory=False)


def test_nothing_is_read_before_setup():
    module = CIFAR10DataModule("folder", root="absent")
    with pytest.raises(RuntimeError, match=r"setup\(\)"):
        _ = module.dataset


@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100), ("digits", 10), ("folder", 2)])
def test_num_classes_is_known_before_anything_is_read(image_folder, dataset, classes):
    module = CIFAR10DataModule(dataset, root=str(image_folder))
    assert module.num_classes == classes
    assert module.source is None


def test_hyper_parameters_are_the_arguments_in_plain_types(image_folder):
    module = make_module("folder", str(image_folder), batch_size=7)
    hyper_parameters = dict(module.hparams)
    assert json.loads(json.dumps(hyper_parameters)) == hyper_parameters
    assert {type(value) for value in hyper_parameters.values()} <= {str, int, bool, list, type(None)}
    assert hyper_parameters["batch_size"] == 7
    assert hyper_parameters["root"] == str(image_folder)


# ------------------------------------------------------------------------------------------------------------- batches


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


class Recorder(LightningModule):
    """Module that records its batches and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.train_batches, self.other_batches = [], []

    def training_step(self, batch):
        self.train_batches.append(batch)
        return self.weight.square()

    def validation_step(self, batch):
        self.other_batches.append(batch)

    test_step = validation_step

    def predict_step(self, batch):
        self.other_batches.append(batch)
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer() -> Trainer:
    torch.manual_seed(0)
    return make_quiet_trainer(max_epochs=10)


def augment(image: np.ndarray, padding: int, mirrored: bool, top: int, left: int) -> np.ndarray:
    """Augment one image (3, 32, 32) with NumPy."""
    padded = np.pad(image[:, :, ::-1] if mirrored else image, [(0, 0), (padding,) * 2, (padding,) * 2], mode="reflect")
    return padded[:, top : top + 32, left : left + 32]


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


def fit(trainer: Trainer, *args: object, **options: object) -> tuple[CIFAR10DataModule, Recorder]:
    module, recorder = CIFAR10DataModule(*args, **options), Recorder()
    trainer.fit(recorder, module)
    return module, recorder


def test_alternating_flips_are_random_first_and_then_every_other_epoch(image_folder, trainer):
    module, recorder = fit(trainer, "folder", str(image_folder), batch_size=7, flip="alternating", crop_padding=0)
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
    _, recorder = fit(trainer, "folder", str(image_folder), batch_size=7, flip=flip, cutout=8)
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
    module, recorder = fit(trainer, "folder", str(image_folder), **options)
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
        runs.append(fit(make_quiet_trainer(max_epochs=3), "folder", str(image_folder), **options))
    (one, recorded), (other, also_recorded) = runs
    assert (one.mean, one.std) == (other.mean, other.std)  # the sample is the whole set here
    for name in ("train_batches", "other_batches"):
        pairs = zip(getattr(recorded, name), getattr(also_recorded, name), strict=True)
        assert all(torch.equal(a, b) for first, second in pairs for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("sizes", "shares", "expected"),  # in 30 steps
    [
        ([32], None, {32: 30}),
        ([20], None, {20: 30}),
        ([24, 32], [3, 7], {24: 9, 32: 21}),
        ([20, 24, 32], [0.15, 0.35, 0.5], {20: 4, 24: 11, 32: 15}),  # 4.5 is rounded to the even number
        ([9, 16, 32], None, {9: 10, 16: 10, 32: 10}),
    ],
)
def test_each_size_has_its_share_of_the_steps(image_folder, trainer, sizes, shares, expected):
    """Sizes may change within an epoch, which has three steps here."""
    options = {"batch_size": 7, "flip": False, "crop_padding": 0, "sizes": sizes, "size_shares": shares}
    module, recorder = fit(trainer, "folder", str(image_folder), **options)
    plain, loader = [], BatchLoader(module.train, 7, seed=0)
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        plain += [images for images, _ in loader]
    schedule = [size for size, steps in expected.items() for _ in range(steps)]
    for (seen, _), images, size in zip(recorder.train_batches, plain, schedule, strict=True):
        resized = [resize(image, [size, size], antialias=True) if size < 32 else image for image in images]
        assert torch.equal(seen, torch.stack(resized))


@pytest.mark.parametrize(
    ("length", "total"),
    [
        ({"max_steps": 5}, 5),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 2, "max_steps": 9, "limit_train_batches": 0.5}, 2),
        ({"max_epochs": 4, "accumulate_grad_batches": 2}, 8),
        ({"max_epochs": 4, "callbacks": GradientAccumulationScheduler({0: 1, 2: 4})}, 8),
    ],
)
def test_shares_are_of_the_optimiser_steps(image_folder, tmp_path, length, total):
    trainer, sizes = make_quiet_trainer(**length), {}

    class Watched(Recorder):
        def training_step(self, batch):
            sizes.setdefault(self.trainer.global_step, len(batch[0][0, 0]))
            return super().training_step(batch)

    options = {"batch_size": 7, "sizes": [16, 24]}
    trainer.fit(Watched(), CIFAR10DataModule("folder", str(image_folder), **options))
    half = round(total / 2)
    assert sizes == {step: 16 if step < half else 24 for step in range(total)}


def test_the_recipe_accurate_trains_twelve_of_21_epochs_on_small_images():
    data = yaml.safe_load(RECIPES["accurate"].read_text())["data"]
    found = [find_size(data["sizes"], data["size_shares"], step, 21 * 200) for step in range(21 * 200)]
    assert found == [24] * 12 * 200 + [32] * 9 * 200


@pytest.mark.parametrize(
    ("sizes", "shares", "problem"),
    [
        ([], None, "the number of sizes must be at least 1, got 0"),
        ([7, 32], None, "sizes must be in [8, 32], got 7"),
        ([33], None, "sizes must be in [8, 32], got 33"),
        ([16, 32], [1, 0], "size_shares must be in (0, 1e9], got 0"),
        ([16, 32], [1, -1.5], "size_shares must be in (0, 1e9], got -1.5"),
        ([16, 32], [float("nan"), 1], "size_shares must be in (0, 1e9], got nan"),
        ([16, 32], [float("inf"), 1], "size_shares must be in (0, 1e9], got inf"),
        ([16, 32], [1], "one share for each of several sizes, got [1] for sizes [16, 32]; leave it out"),
        ([16, 32], [], "one share for each of several sizes, got [] for sizes [16, 32]; leave it out"),
        ([16], [1], "one share for each of several sizes, got [1] for sizes [16]; leave it out"),
    ],
)
def test_bad_sizes_are_named(bad_input, sizes, shares, problem):
    with bad_input(problem):
        CIFAR10DataModule(sizes=sizes, size_shares=shares)


def test_several_sizes_need_the_length_of_the_training(image_folder, tmp_path, bad_input):
    module = CIFAR10DataModule("folder", str(image_folder), sizes=[24, 32])
    with bad_input("sizes [24, 32] need the training's length: set the Trainer's max_epochs or max_steps"):
        make_quiet_trainer(max_epochs=-1).fit(Recorder(), module)


def test_one_size_does_not_need_the_length_of_the_training(image_folder, tmp_path):
    module, recorder = CIFAR10DataModule("folder", str(image_folder), sizes=[24]), Recorder()
    trainer = make_quiet_trainer(max_epochs=-1)
    recorder.on_train_batch_end = lambda *_: setattr(trainer, "should_stop", True)
    trainer.fit(recorder, module)
    assert recorder.train_batches[0][0].shape[-2:] == (24, 24)


def test_without_a_trainer_images_have_the_last_size(image_folder):
    module = make_module("folder", str(image_folder), sizes=[32, 16])
    module.train_dataloader()
    assert module.augment_batch(module.train.images[:3], torch.arange(3)).shape == (3, 3, 16, 16)


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


def test_a_data_module_can_be_printed():
    """Lightning's text takes the batches of a loader that is no DataLoader for descriptions of them."""
    data = CIFAR10DataModule("digits", batch_size=64)
    data.setup()
    assert "CIFAR10DataModule" in str(data)
