"""Sizes of training images at each step."""

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torchvision.transforms.v2.functional import resize

from lightning_cifar.data.loader import BatchLoader
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.sizes import find_size
from lightning_cifar.run.settings.options import RECIPES
from tests.data.batches import Recorder, make_module, record_batches
from tests.trainer import make_quiet_trainer


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
def test_each_size_has_its_share_of_the_steps(image_folder, sizes, shares, expected):
    """Sizes may change within an epoch, which has three steps here."""
    options = {"batch_size": 7, "flip": False, "crop_padding": 0, "sizes": sizes, "size_shares": shares}
    module, recorder = record_batches(make_quiet_trainer(max_epochs=10), "folder", str(image_folder), **options)
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
