"""Throughput counts every image; Progress writes a line an epoch and, in a terminal, a bar."""

import re

import pytest
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger

from lightning_cifar import CIFAR10DataModule, ImageClassifier, Progress, Throughput
from lightning_cifar.train import progress
from lightning_cifar.train.figure import read_metrics


def fit(tmp_path, *callbacks):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        log_every_n_steps=5,
        logger=CSVLogger(tmp_path / "run", name="", version=""),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
        enable_model_summary=False,
    )
    data = CIFAR10DataModule("digits", batch_size=128, val_size=200)
    trainer.fit(ImageClassifier(widths=(4,) * 5), data)
    return trainer, data


def test_throughput_counts_every_image(tmp_path):
    _, data = fit(tmp_path, Throughput())
    series = read_metrics(tmp_path / "run/metrics.csv")
    speeds, seconds = series["time/epoch_images_per_second"], series["time/epoch_seconds"]
    for (_, speed), (_, taken) in zip(speeds, seconds, strict=True):
        assert speed * taken == pytest.approx(len(data.train), rel=1e-4)
    assert len(series["time/images_per_second"]) == 4  # steps 5 and 10 of two epochs


def test_a_plain_line_an_epoch(tmp_path, capsys):
    fit(tmp_path, Throughput(), Progress())
    printed = capsys.readouterr()
    first, second = printed.out.splitlines()
    number = r"[\d.,]+"
    line = rf"train loss {number} accuracy {number}%  val loss {number} accuracy {number}%  {number} images/s"
    assert re.fullmatch(rf"epoch 1/2  {line}  00:\d\d left", first)
    assert re.fullmatch(rf"epoch 2/2  {line}  00:00 left", second)
    assert "\r" not in printed.err


def test_a_bar_in_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    trainer, data = fit(tmp_path, Throughput(), Progress(interval=0))
    bar = capsys.readouterr().err
    assert re.search(
        r"epoch 2/2: +\d+% \|.*\| 00:\d\d, 00:\d\d left, [\d,]+ images/s, loss [\d.]+, accuracy [\d.]+%", bar
    )
    trainer.test(trainer.model, data, verbose=False)
    assert "testing" in capsys.readouterr().err
