"""The public callbacks in another's Trainer: each by itself, with any LightningModule, loader and kind of batch."""

import warnings
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_cifar import ImageClassifier, InputError, LastCheckpoint, LiveFigure, Progress, Throughput
from tests.trainer import make_quiet_trainer

CALLBACKS = {
    "LastCheckpoint": lambda: LastCheckpoint(minutes=0),
    "LiveFigure": lambda: LiveFigure(interval=0),
    "Progress": Progress,
    "Throughput": Throughput,
}
ROWS = torch.rand(12, 6)
BATCHES = {"tensor": ROWS, "pair": [(row, 0) for row in ROWS], "dictionary": [{"x": row} for row in ROWS]}


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def training_step(self, batch, batch_idx):
        rows = batch["x"] if isinstance(batch, dict) else batch[0] if isinstance(batch, list) else batch
        loss = self.layer(rows).square().mean()
        self.log("train/loss", loss, batch_size=len(rows), on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(directory: Path, model: LightningModule, loader: DataLoader, *callbacks, epochs=2, **options) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs, callbacks=list(callbacks), logger=CSVLogger(directory, name="", version=""),
        log_every_n_steps=1, accelerator="cpu", enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about workers
        trainer.fit(model, loader, **options)
    return trainer


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_works_with_other_modules_and_batches(tmp_path, name, batches):
    callback = CALLBACKS[name]()
    trainer = fit(tmp_path, Model(), DataLoader(BATCHES[batches], batch_size=4), callback)
    assert trainer.global_step == 6
    for file, writer in (("checkpoints/last.ckpt", "LastCheckpoint"), ("curves.png", "LiveFigure")):
        assert (tmp_path / file).exists() == (name == writer)
    if isinstance(callback, Throughput):
        assert callback.epoch_images == len(ROWS)


@pytest.mark.filterwarnings("ignore:.* does not have many workers")
def test_a_figure_without_curves_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "log", lambda model, name, *args, **options: LightningModule.log(model, "loss", *args))
    logger = CSVLogger(tmp_path / "run", name="", version="")
    trainer = make_quiet_trainer(max_epochs=1, logger=logger, log_every_n_steps=1, callbacks=[LiveFigure(interval=0)])
    with pytest.warns(UserWarning, match="curves.png is empty: Model logs none of train/loss, train/acc"):
        trainer.fit(Model(), DataLoader(ROWS, batch_size=4))


@pytest.mark.slow
def test_the_classifier_on_a_plain_loader_is_saved_and_resumed(tmp_path):
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    loader = DataLoader([(image, 0) for image in images], batch_size=4)

    def train(directory, epochs, **options):
        torch.manual_seed(0)
        model = ImageClassifier(widths=[4, 4, 8, 8, 8], hidden=0)
        fit(directory, model, loader, LastCheckpoint(), epochs=epochs, **options)
        return model.state_dict()

    whole = train(tmp_path / "whole", 2)
    train(tmp_path / "part", 1)
    resumed = train(tmp_path / "resumed", 2, ckpt_path=tmp_path / "part/checkpoints/last.ckpt")
    assert all(torch.equal(resumed[name], one) for name, one in whole.items())


def test_a_batch_without_a_size_is_one_line():
    with pytest.raises(InputError, match="Throughput counts images, and finds none in a float: leave it out"):
        Throughput().on_train_batch_end(make_quiet_trainer(), None, None, 1.5, 0)
