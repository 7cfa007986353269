"""The last weights of a training are validated, also where ``max_steps`` ends it within an epoch."""

import csv
from pathlib import Path

import pytest

from lightning_cifar import main
from lightning_cifar.train.checkpoint import load_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "validated", "least"),
    [(1, [0], []), (3, [1, 2], []), (4, [1, 3], []), (3, [1, 2], ["min_epochs", "3"]), (3, [1, 2], ["min_steps", "5"])],
)
def test_the_last_weights_are_validated_wherever_max_steps_ends(tiny, steps, validated, least):
    """Two steps make an epoch. `best.ckpt` never has the accuracy of other weights."""
    options = ["--trainer.max_epochs", "9", "--trainer.max_steps", str(steps), "--trainer.log_every_n_steps", "1"]
    options += [f"--trainer.{least[0]}", least[1]] if least else []
    assert main(["fit", *tiny, *options, "--run_dir", "run"]) == 0
    with open("run/metrics.csv", newline="") as opened:
        accuracies = {int(row["step"]): row["val/accuracy"] for row in csv.DictReader(opened) if row["val/accuracy"]}
    assert [*accuracies] == validated
    best = load_checkpoint(Path("run/checkpoints/best.ckpt"))
    (score,) = (state["best_model_score"] for key, state in best["callbacks"].items() if "ModelCheckpoint" in key)
    assert float(score) == pytest.approx(float(accuracies[best["global_step"] - 1]))


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["--trainer.max_epochs 3", "--trainer.max_epochs 9 --trainer.max_steps 5"])
def test_the_last_weights_are_validated_whatever_epochs_are(tiny, limit):
    assert main(["fit", *tiny, *limit.split(), "--trainer.check_val_every_n_epoch", "4", "--run_dir", "run"]) == 0
    with open("run/metrics.csv", newline="") as opened:
        assert [row["epoch"] for row in csv.DictReader(opened) if row["val/accuracy"]] == ["2"]
    assert Path("run/checkpoints/best.ckpt").is_file()


@pytest.mark.slow
def test_the_test_accuracy_is_plotted_there_too(tiny):
    """As the recipe `report` does, also in a lesson of a few steps."""
    options = ["--data.held_out", "test", "--trainer.max_steps", "1", "--run_dir", "run"]
    assert main(["fit", *(word for word in tiny if word not in ("--data.val_size", "100")), *options]) == 0
    with open("run/metrics.csv", newline="") as opened:
        assert [row["step"] for row in csv.DictReader(opened) if row.get("test/accuracy")] == ["0"]
