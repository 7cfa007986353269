"""The data module: splits, statistics and arguments."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar.data.dataset import ImageSet, measure_channels
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.sources.digits import load_digits
from tests.data.batches import are_equal, make_module


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
    assert module.loaded is None


def test_hyper_parameters_are_the_arguments_in_plain_types(image_folder):
    module = make_module("folder", str(image_folder), batch_size=7)
    hyper_parameters = dict(module.hparams)
    assert json.loads(json.dumps(hyper_parameters)) == hyper_parameters
    assert {type(value) for value in hyper_parameters.values()} <= {str, int, bool, list, type(None)}
    assert hyper_parameters["batch_size"] == 7
    assert hyper_parameters["root"] == str(image_folder)


def test_a_data_module_can_be_printed():
    """Lightning's text takes the batches of a loader that is no DataLoader for descriptions of them."""
    data = CIFAR10DataModule("digits", batch_size=64)
    data.setup()
    assert "CIFAR10DataModule" in str(data)
