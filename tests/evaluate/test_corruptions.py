"""Corruptions: the effect of each on an image, its severities, and the state of the model afterwards."""

import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_cifar import main
from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.evaluate import corruptions
from lightning_cifar.evaluate.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    corrupt_images,
    evaluate_corruptions,
    read_cifar10_c,
)


@pytest.fixture(scope="module")
def images():
    """Smooth random images in three colours."""
    generator = torch.Generator().manual_seed(0)
    clouds = torch.nn.functional.interpolate(torch.rand(8, 3, 9, 9, generator=generator), (32, 32), mode="bicubic")
    return (40 + 160 * clouds).round().clamp(0, 255).to(torch.uint8)


def test_distance_grows_with_severity(images):
    """The mean distance to the image grows with severity and stays bounded."""
    for name, severities in corrupt_images(images):
        distances = [(one.float() - images.float()).abs().mean().item() for one in severities]
        assert len(distances) == SEVERITIES == len(CORRUPTIONS[name][1])
        assert distances[0] > 0, name
        assert distances == sorted(distances), name
        assert distances[-1] < 100, name
        assert all((one.dtype, one.shape) == (torch.uint8, images.shape) for one in severities)


def test_images_are_not_changed_in_place(images):
    before = images.clone()
    for _ in corrupt_images(images):
        assert torch.equal(images, before)


def test_noise_is_the_same_every_time_and_as_large_as_said():
    grey = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    first, second = (corruptions.add_noise(grey, 20) for _ in range(2))
    assert torch.equal(first, second)
    assert first.float().std().item() == pytest.approx(20, rel=0.02)


def test_brightness_and_contrast_by_hand():
    image = torch.tensor([[0, 100], [200, 250]], dtype=torch.uint8).expand(1, 3, 2, 2)
    assert corruptions.brighten(image, 30)[0, 0].tolist() == [[30, 130], [230, 255]]
    (row,) = corruptions.reduce_contrast(image, 0.5)[:, 0].flatten(1).tolist()
    assert row == pytest.approx([(value + 137.5) / 2 for value in (0, 100, 200, 250)], abs=1)


def test_pixelation_makes_blocks_of_their_means(images):
    blocks = corruptions.pixelate(images, 2).float().unfold(2, 2, 2).unfold(3, 2, 2)
    assert (blocks.amax((4, 5)) == blocks.amin((4, 5))).all()
    means = images.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert (blocks[..., 0, 0] - means).abs().max() <= 0.5


def test_cifar10_c_is_read_by_severity(tmp_path):
    stored = np.random.default_rng(0).integers(256, size=(5 * 4, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", stored)
    np.save(tmp_path / "labels.npy", np.zeros(20))
    ((name, severities),) = read_cifar10_c(tmp_path, images=4)
    assert name == "fog"
    assert np.array_equal(torch.cat([*severities]).permute(0, 2, 3, 1).numpy(), stored)


def test_cifar10_c_of_another_size(tmp_path):
    np.save(tmp_path / "fog.npy", np.zeros((20, 32, 32, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"fog\.npy must hold uint8 \(15, 32, 32, 3\), got uint8 \(20, 32, 32, 3\)"):
        next(read_cifar10_c(tmp_path, images=3))
    (tmp_path / "fog.npy").write_text("fog")
    with pytest.raises(ValueError, match=r"fog\.npy is not an array of images"):
        next(read_cifar10_c(tmp_path, images=3))


@pytest.mark.parametrize("tta", ["none", "mirror"])
def test_tta_is_restored_after_a_failure(images, tta):
    """Test-time augmentation is off while corruptions are evaluated, and set again if that fails."""
    seen = []

    def fail(model, _):
        seen.append(model.hparams["tta"])
        raise RuntimeError("out of memory")

    model = SimpleNamespace(hparams={"tta": tta})
    data = SimpleNamespace(test=ImageSet(images, torch.zeros(8, dtype=torch.long)), hparams={"dataset": "digits"})
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_corruptions(model, data, SimpleNamespace(predict=fail))
    assert (seen, model.hparams["tta"]) == (["none"], tta)


@pytest.mark.slow
def test_the_command_measures_and_prints_each_corruption(trained, capsys, tmp_path, drawn_figures):
    checkpoint = str(trained / "checkpoints/last.ckpt")
    assert main(["test", "--ckpt_path", checkpoint, "--corruptions", "--run_dir", str(tmp_path / "test")]) == 0
    result = json.loads((tmp_path / "test/test.json").read_text())
    assert set(result["corruptions"]) == set(CORRUPTIONS)
    assert all(len(accuracies) == SEVERITIES for accuracies in result["corruptions"].values())
    assert len({*result["corruptions"]["brightness"]}) > 1
    assert (tmp_path / "test/test.png").stat().st_size > 10_000
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row in CORRUPTIONS] == [*CORRUPTIONS]


def test_an_empty_file_of_cifar10_c_is_named(tmp_path):
    (tmp_path / "fog.npy").touch()
    with pytest.raises(ValueError, match=r"fog\.npy is not an array of images"):
        next(read_cifar10_c(tmp_path, images=3))


def test_one_severity_is_in_memory_at_a_time(images, monkeypatch):
    """Those of a folder of large images would need many times its memory."""
    made, alive = [], []

    def corrupt(images, strength):
        alive.append(sum(one() is not None for one in made))
        changed = images + int(strength)
        made.append(weakref.ref(changed))
        return changed

    monkeypatch.setattr(corruptions, "CORRUPTIONS", {"noise": (corrupt, (1, 2, 3, 4, 5))})
    model = SimpleNamespace(hparams={"tta": "none"})
    data = SimpleNamespace(test=ImageSet(images, torch.zeros(8, dtype=torch.long)), hparams={"dataset": "digits"})
    trainer = SimpleNamespace(predict=lambda *_: [torch.eye(10)[:8]])
    assert evaluate_corruptions(model, data, trainer) == {"noise": [1 / 8] * 5}
    assert alive == [0] * 5


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_are_corrupted_in_parts_as_all_at_once(images, monkeypatch, name):
    corrupt, strengths = CORRUPTIONS[name]
    whole = corrupt(images, strengths[2])
    monkeypatch.setattr(corruptions, "BATCH", 3)
    assert torch.equal(corrupt(images, strengths[2]), whole)
