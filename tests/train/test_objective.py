"""Class weights: the weighted loss by hand, balanced weights, and what checkpoints, resumes and bad values become."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError, main
from lightning_cifar.data.loader import BatchLoader
from lightning_cifar.train.checkpoint import load_checkpoint
from lightning_cifar.train.objective import Objective, balance_classes
from tests.trainer import make_quiet_trainer

WEIGHTS = [0.5, 1.0, 4.0]


@pytest.mark.parametrize("mixing", [{}, {"mixup": 1.0}, {"cutmix": 1.0}])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_a_weighted_mean_over_images(smoothing, mixing):
    """Each class of a target counts by its weight; the batch's weights do not matter."""
    objective = Objective(3, smoothing, mixing.get("mixup", 0), mixing.get("cutmix", 0), WEIGHTS).double()
    labels, logits = torch.tensor([0, 2, 2, 1, 0]), torch.randn(2, 5, 3, dtype=torch.float64)
    _, targets = objective.mix(torch.rand(5, 3, 8, 8), labels)
    shares = torch.nn.functional.one_hot(labels, 3).double() if targets.ndim == 1 else targets.double()
    shares = (1 - smoothing) * shares + smoothing / 3
    expected = [-(shares * torch.tensor(WEIGHTS) * one.log_softmax(1)).sum(1).mean() for one in logits]
    torch.testing.assert_close(objective.sum_losses([*logits], targets), sum(expected))


def test_loss_of_two_shards_is_that_of_the_batch():
    """DDP averages the gradients of the shards, whatever classes are in each."""
    objective, logits, labels = Objective(3, 0, 0, 0, WEIGHTS), torch.randn(6, 3), torch.tensor([0, 0, 0, 2, 2, 1])
    halves = [objective.sum_losses([logits[part]], labels[part]) for part in (slice(3), slice(3, 6))]
    torch.testing.assert_close(sum(halves) / 2, objective.sum_losses([logits], labels))


def test_equal_weights_change_nothing():
    logits, labels = [torch.randn(7, 3)], torch.tensor([0, 1, 2, 0, 0, 1, 0])
    plain, weighted = (Objective(3, 0.1, 0, 0, weights).sum_losses(logits, labels) for weights in (None, [1, 1, 1]))
    torch.testing.assert_close(weighted, plain)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 31)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert balance_classes(labels, 3) == pytest.approx(expected.tolist())
    assert balance_classes(labels, 4)[3] == 1  # no image: the others stay the same
    assert balance_classes(labels, 4)[:3] == balance_classes(labels, 3)


def fit(folder: Path, *options: object) -> int:
    args = ["--data.dataset", "folder", "--data.root", folder, "--model.widths", "[4,4,8,8,8]", "--data.batch_size", 6]
    args += ["--trainer.max_epochs", 2, "--trainer.log_every_n_steps", 1, *options]
    return main(["fit", *map(str, args)])


@pytest.mark.slow
def test_balanced_weights_are_numbers_in_a_checkpoint(image_folder):
    """Of 12 cats and 6 dogs. A run on its configuration is the same, and so is a test of its checkpoint."""
    assert fit(image_folder, "--model.class_weights", "balanced", "--run_dir", "run") == 0
    checkpoint = load_checkpoint(Path("run/checkpoints/last.ckpt"))
    assert checkpoint["hyper_parameters"]["class_weights"] == [0.75, 1.5]
    assert not any("objective" in name for name in checkpoint["state_dict"])
    # Other data on the same configuration have other numbers.
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["class_weights"] == "balanced"
    assert main(["fit", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    again = load_checkpoint(Path("again/checkpoints/last.ckpt"))
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in checkpoint["state_dict"].items())
    assert main(["test", "--ckpt_path", "run", "--data.root", str(image_folder), "--run_dir", "test"]) == 0
    assert json.loads(Path("test/test.json").read_text())["balanced_accuracy"] is not None


@pytest.mark.slow
def test_a_resumed_run_keeps_its_weights(image_folder):
    """Even if the command says `balanced` again, and to the bit."""
    balanced = ["--model.class_weights", "balanced"]
    assert fit(image_folder, *balanced, "--trainer.max_epochs", 1, "--run_dir", "run") == 0
    shutil.copytree("run", "copy")
    assert main(["fit", "--resume", "run", *balanced, "--trainer.max_epochs", "2"]) == 0
    assert fit(image_folder, *balanced, "--run_dir", "whole") == 0
    found, expected = (load_checkpoint(Path(run, "checkpoints/last.ckpt"))["state_dict"] for run in ("run", "whole"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert main(["fit", "--resume", "copy", "--model.class_weights", "[1, 2]", "--trainer.max_epochs", "2"]) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, 2, 3]", "class_weights must be balanced or 2 numbers (num_classes), got [1.0, 2.0, 3.0]"),
        ("[0, 1]", "class_weights must be in (0, 1e9], got 0.0"),
        ("[-1, 1]", "class_weights must be in (0, 1e9], got -1.0"),
        ("[.nan, 1]", "class_weights must be in (0, 1e9], got nan"),
        ("[.inf, 1]", "class_weights must be in (0, 1e9], got inf"),
        ("[]", "class_weights must be balanced or 2 numbers (num_classes), got []"),
        ("balance", "class_weights balance: one of balanced or a list of numbers"),
        ("2", "class_weights 2: one of balanced or a list of numbers"),
        ("[a, b]", "class_weights ['a', 'b']: one of balanced or a list of numbers"),
    ],
)
def test_bad_weights_are_refused_in_one_line(image_folder, capsys, value, message):
    assert fit(image_folder, "--model.class_weights", value, "--run_dir", "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --model.{message}")
    assert not Path("run").exists()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_balanced_weights_need_a_data_module():
    data = CIFAR10DataModule("digits")
    data.setup()
    trainer = make_quiet_trainer(max_steps=1, limit_val_batches=0)
    with pytest.raises(InputError, match="class_weights balanced needs a CIFAR10DataModule: give one number for each"):
        trainer.fit(ImageClassifier(class_weights="balanced"), BatchLoader(data.train, 64))
