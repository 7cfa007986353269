"""GateStatistics: mean gate weights, the fraction of images with zero gates, and the end of training if it is 1."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_cifar import CIFAR10DataModule, ImageClassifier
from lightning_cifar.errors import DivergenceError
from lightning_cifar.run.figures.curves import read_metrics
from lightning_cifar.run.guards import GateStatistics
from tests.trainer import make_quiet_trainer


def train(directory, model, callbacks=None, **options):
    data = CIFAR10DataModule(dataset="digits", batch_size=32, flip=False)
    logger = CSVLogger(directory, name="", version="")
    callbacks = GateStatistics() if callbacks is None else callbacks
    limits = {"limit_train_batches": 2, "limit_val_batches": 1, "log_every_n_steps": 1}
    trainer = make_quiet_trainer(logger=logger, callbacks=callbacks, **limits, **options)
    trainer.fit(model, data)
    return read_metrics(directory / "metrics.csv")


@pytest.mark.slow
def test_mean_weights_and_fraction_of_zero_gates_are_logged(tmp_path):
    model = ImageClassifier(widths=(4, 4, 4, 4, 4), learning_rate=1e-9)
    data = CIFAR10DataModule(dataset="digits")
    data.setup()
    model.adopt(data)
    shown = data.train.sample(32).images  # 2 % of the images, but at least 32
    brightness = model.normalise(shown).mean((2, 3)).sum(1)
    first, second = (model.network.blocks[number].gate.layers[-1] for number in (0, 1))
    first.weight.data.fill_(1)
    first.bias.data.fill_(-float(brightness.median()))  # zero for the darker half of the images
    second.bias.data = torch.tensor([0.5, 2.0, 0.0])
    series = train(tmp_path / "run", model, max_epochs=2)
    last = {name: points[-1][1] for name, points in series.items() if name.startswith("gates/")}
    assert len(last) == 5 * 4
    assert [last[f"gates/block2_branch{branch}"] for branch in (1, 2, 3)] == pytest.approx([0.5, 2.0, 0.0], abs=1e-4)
    assert last["gates/block1_dead"] == pytest.approx(0.5, abs=1 / len(shown))
    assert [last[f"gates/block{block}_dead"] for block in (2, 3)] == [0, 0]
    assert last["gates/block3_branch1"] == pytest.approx(1, abs=1e-4)
    assert [epoch for epoch, _ in series["gates/block1_dead"]] == [1, 2]
    assert model.network.training


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_training_stops_if_a_block_has_zero_gates_for_every_image(members, tmp_path):
    model = ImageClassifier(widths=(4, 4, 4, 4, 4), members=members)
    model.networks[-1].blocks[1].gate.layers[-1].bias.data.fill_(-9)
    with pytest.raises(
        DivergenceError, match=r"gates of block 2 are zero .* in epoch 1: try a lower --model.gate_rate"
    ):
        train(tmp_path / "run", model, max_epochs=2)


@pytest.mark.slow
def test_callback_does_not_change_training(tmp_path):
    def train_weights(callback):
        torch.manual_seed(0)
        model = ImageClassifier(widths=(4, 4, 4, 4, 4))
        train(tmp_path / str(callback), model, None if callback else [], max_epochs=2)
        return model.state_dict()

    for value, expected in zip(train_weights(True).values(), train_weights(False).values(), strict=True):
        assert torch.equal(value, expected)


def test_static_gates_are_not_logged(tmp_path):
    series = train(tmp_path / "run", ImageClassifier(widths=(4, 4, 4, 4, 4), gate="static"), max_epochs=1)
    assert not [name for name in series if name.startswith("gates/")]
