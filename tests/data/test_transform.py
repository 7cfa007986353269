"""Further augmentation: policies by name, drawn for each image, and functions of the user."""

import sys
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError, main, trust
from lightning_cifar.data.transform import find_transform
from lightning_cifar.train.checkpoint import load_checkpoint
from tests.trainer import make_quiet_trainer

STEPS = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.log_every_n_steps", "1"]


@pytest.mark.parametrize(
    ("name", "kind"), [("rand_augment", v2.RandAugment), ("trivial_augment", v2.TrivialAugmentWide)]
)
def test_each_image_of_a_batch_gets_its_own_draw(name, kind, drawn_images):
    """The plain twin: the policy on one image after the other."""
    torch.manual_seed(1)
    found = find_transform(name)(drawn_images)
    torch.manual_seed(1)
    policy = kind()
    assert torch.equal(found, torch.stack([policy(image) for image in drawn_images]))
    same = find_transform(name)(drawn_images[:1].repeat(30, 1, 1, 1))
    assert len({image.numpy().tobytes() for image in same}) > 10


def test_a_function_takes_batches_in_python():
    seen = []
    data = CIFAR10DataModule("digits", batch_size=50, transform=lambda images: seen.append(images) or images.flip(3))
    model = ImageClassifier(widths=(4, 4, 4, 4, 4))
    make_quiet_trainer(max_steps=2).fit(model, data)
    assert [(one.dtype, tuple(one.shape)) for one in seen] == [(torch.uint8, (50, 3, 32, 32))] * 2


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torchvision.transforms import v2\n\njitter = v2.ColorJitter(0.4)\n\n\ndef halve(images):\n"
        "    return images[:, :, ::2, ::2]\n\n\nnorm = v2.Normalize([0.5], [0.5])\n\n\n"
        "def elsewhere(images):\n    return images.to('meta')\n\n\n"
        "def crop(image):\n    return image.getbbox()\n"
    )
    monkeypatch.delitem(sys.modules, "mine", raising=False)


@pytest.mark.slow
def test_a_name_needs_trust_in_training_only(mine, tiny, capsys):
    fit = ["fit", *tiny, *STEPS, "--data.transform", "mine:jitter", "--run_dir", "run"]
    assert main(fit) == 2
    assert "--data.transform mine:jitter is not trusted" in capsys.readouterr().err
    assert not Path("run").exists()
    assert main([*fit, "--trust_config", "mine"]) == 0
    assert main(["test", "--ckpt_path", "run"]) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rand_augmnt", "transform must be rand_augment, trivial_augment or PACKAGE.MODULE:FUNCTION"),
        (
            "mine:halve",
            "transform returned torch.uint8 [16, 3, 16, 16] on cpu for torch.uint8 [16, 3, 32, 32]",
        ),
        ("mine:elsewhere", "transform returned torch.uint8 [16, 3, 32, 32] on meta for"),
        ("mine:norm", "--data.transform failed on torch.uint8 [16, 3, 32, 32]: Input tensor should be a float tensor"),
        ("mine:crop", "transform failed on torch.uint8 [16, 3, 32, 32]: 'Tensor' object has no attribute 'getbbox'"),
        ("mine:nothing", "mine has no function 'nothing'"),
    ],
)
def test_what_is_no_transform_is_one_line(mine, tiny, capsys, name, words):
    options = ["--data.transform", name, "--trust_config", "mine", "--run_dir", "run"]
    assert main(["fit", *tiny, *STEPS, *options]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err
    assert not Path("run").exists()


@pytest.mark.parametrize("transform", [3, ["rand_augment"], "rand"])
def test_what_cannot_be_called_is_no_transform(transform):
    with pytest.raises(InputError, match="transform must be rand_augment, trivial_augment or"):
        find_transform(transform)


def test_an_object_without_a_name_is_not_loaded_by_it():
    data = CIFAR10DataModule("digits", transform=v2.ColorJitter(0.4))
    assert data.hparams["transform"].startswith("ColorJitter(")
    again = CIFAR10DataModule(**data.hparams)
    with trust("mine"), pytest.raises(InputError, match="transform must be"):
        again.setup("fit")


@pytest.mark.slow
def test_a_resumed_run_draws_the_same(tiny):
    options = [
        *tiny,
        *STEPS,
        "--data.transform",
        "trivial_augment",
        "--trainer.max_epochs",
        "2",
        "--data.batch_size",
        "16",
    ]
    often = ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0"]
    assert main(["fit", *options, *often, "--run_dir", "whole"]) == 0
    assert main(["fit", *options, *often, "--run_dir", "parts", "--trainer.max_steps", "4"]) == 0
    assert main(["fit", "--resume", "parts", "--trainer.max_steps", "-1"]) == 0
    whole, parts = (load_checkpoint(Path(name, "checkpoints/last.ckpt"))["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
