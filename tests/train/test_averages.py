"""Averages of the weights: constants stay exact, and one that has not begun equals the weights."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim.swa_utils import AveragedModel

from lightning_cifar import CIFAR10DataModule, ImageClassifier, main
from lightning_cifar.train.checkpoint import load_checkpoint
from tests.trainer import make_quiet_trainer


@pytest.mark.slow
def test_an_average_of_the_weights_keeps_what_is_constant():
    """The mean of 7 and 7 with this decay is 6.9999995, of which Lightning would keep 6 as an index."""
    model = ImageClassifier(widths=(4, 8, 8, 8, 8), flip_equivariant=True, norm_scale=False)
    for parameter in (weights := dict(model.named_parameters())).values():
        if not parameter.requires_grad:
            parameter.data.fill_(0.7)
    data = CIFAR10DataModule("digits", batch_size=32)
    data.setup()
    model.adopt(data)
    constants = {name: buffer for name, buffer in model.named_buffers() if name.endswith(("partner", ".mean", ".std"))}
    constants |= {name: parameter for name, parameter in weights.items() if not parameter.requires_grad}
    before = {name: value.clone() for name, value in constants.items()}
    trainer = make_quiet_trainer(callbacks=EMAWeightAveraging(decay=0.9), limit_val_batches=0, max_steps=9)
    trainer.fit(model, data)
    after = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    assert {name.rpartition(".")[2] for name in before} == {"partner", "mean", "std", "weight"}
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


@pytest.mark.slow
def test_an_average_that_has_not_begun_is_that_of_the_current_weights(tiny, monkeypatch):
    """Lightning would validate, save and return the weights from before training."""
    late = ["--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.update_starting_at_epoch", "9"]
    copies = []
    update = AveragedModel.update_parameters
    monkeypatch.setattr(AveragedModel, "update_parameters", lambda *args: (copies.append(1), update(*args)))
    long = ["--trainer.limit_train_batches", "12"]
    for name, options in (("plain", []), ("late", [*late, "--trainer.callbacks.update_every_n_steps", "0"])):
        assert main(["fit", *tiny, *long, *options, "--run_dir", name]) == 0
    assert 0 < len(copies) <= 4  # for the validation, two checkpoints and the end; not after each step
    checkpoints = [Path(name, "checkpoints/best.ckpt") for name in ("plain", "late")]
    plain, late = (load_checkpoint(file)["state_dict"] for file in checkpoints)
    assert all(torch.equal(late[name], value) for name, value in plain.items())
    scores = [
        [row["val/loss"] for row in csv.DictReader(Path(name, "metrics.csv").read_text().splitlines())]
        for name in ("plain", "late")
    ]
    assert scores[0] == scores[1]
