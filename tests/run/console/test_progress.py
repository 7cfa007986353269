"""Throughput counts every image; Progress prints one row per epoch and, in a terminal, a progress bar."""

import re
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger

from lightning_cifar import CIFAR10DataModule, ImageClassifier, Progress, Throughput
from lightning_cifar.run.console import progress
from lightning_cifar.run.figures.curves import read_metrics
from tests.trainer import make_quiet_trainer


def fit(tmp_path, *callbacks, **settings):
    trainer = make_quiet_trainer(
        log_every_n_steps=5,
        logger=CSVLogger(tmp_path / "run", name="", version=""),
        callbacks=list(callbacks),
        enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
        limit_val_batches=1,
        **{"max_epochs": 2, **settings},
    )
    data = CIFAR10DataModule("digits", batch_size=44, val_size=1000, eval_batch_size=100)  # ten steps
    trainer.fit(ImageClassifier(widths=(4,) * 5), data)
    return trainer, data


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The directory of a training with both callbacks, its data, and what it printed on standard output and errors."""
    directory = tmp_path_factory.mktemp("fitted")
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        _, data = fit(directory, Throughput(), Progress())
    return directory, data, out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_throughput_counts_every_image(fitted):
    directory, data, *_ = fitted
    series = read_metrics(directory / "run/metrics.csv")
    speeds, seconds = series["time/epoch_images_per_second"], series["time/epoch_seconds"]
    for (_, speed), (_, taken) in zip(speeds, seconds, strict=True):
        assert speed * taken == pytest.approx(len(data.train), rel=1e-4)
    assert len(series["time/images_per_second"]) == 4  # steps 5 and 10 of two epochs


def test_one_plain_row_per_epoch(fitted):
    *_, out, err = fitted
    header, first, second = out.splitlines()
    names = "epoch  train loss     acc  val loss     acc  images/s     time     left"
    number = r"[\d.,]+"
    row = rf" +{number} +{number}% +{number} +{number}% +{number} +00:\d\d +"
    assert header == names
    assert re.fullmatch(rf"  1/2{row}00:\d\d", first)
    assert re.fullmatch(rf"  2/2{row}00:00", second)
    assert {len(first), len(second)} == {len(names)}
    assert out.isascii()
    assert not err


@pytest.mark.slow
def test_rows_in_a_terminal_end_in_a_plot_and_fit_its_width(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    fit(tmp_path, Throughput(), Progress())
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.endswith("     time  val acc")
    assert re.search(r" 00:\d\d  ▁$", first)
    assert re.search(r" 00:\d\d  (▁█|█▁|▁▁)$", second)
    assert len(header) < 80


@pytest.mark.slow
def test_progress_bar_fits_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    trainer, data = fit(tmp_path, Throughput(), Progress(interval=0))
    bars = capsys.readouterr().err.split("\r")
    wanted = r"epoch 2/2 +\d+%, [\d,]+ images/s, loss [\d.]+, accuracy [\d.]+%, \d\d:\d\d left \|.*"
    assert any(re.fullmatch(wanted, bar) for bar in bars)
    assert max(map(len, bars)) < 80
    trainer.test(trainer.model, data, verbose=False)
    assert "testing" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [(), (GradientAccumulationScheduler({0: 4}),)])
def test_remaining_time_counts_to_max_steps(tmp_path, capsys, callbacks):
    fit(tmp_path, Progress(), *callbacks, max_epochs=1000, max_steps=12)
    *rows, last = capsys.readouterr().out.splitlines()
    assert last.endswith(" 00:00")
    assert not any(" -" in row for row in rows)


@pytest.mark.slow
def test_remaining_time_after_epochs_of_another_length(tmp_path, capsys):
    """Continues from a checkpoint of one epoch of ten batches, with three batches an epoch."""
    trainer, data = fit(tmp_path, max_epochs=1)
    trainer.save_checkpoint(file := tmp_path / "one.ckpt")
    shown = {"enable_progress_bar": True, "callbacks": [Progress()]}
    continued = make_quiet_trainer(max_epochs=2, limit_train_batches=3, limit_val_batches=0, **shown)
    continued.fit(ImageClassifier(widths=(4,) * 5), data, ckpt_path=file, weights_only=True)
    *_, row = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +2/2 .* 00:00", row)


@pytest.mark.slow
def test_epoch_without_validation_has_empty_cells(tmp_path, capsys):
    fit(tmp_path, Progress(), max_epochs=3, check_val_every_n_epoch=2)
    header, first, new_header, second, third = capsys.readouterr().out.splitlines()
    assert ("val loss" in header, "val loss" in new_header) == (False, True)
    assert [row.count("%") for row in (first, second, third)] == [1, 2, 1]
    assert len(second) == len(third)


@pytest.mark.slow
def test_epoch_time_excludes_validation(tmp_path, monkeypatch):
    skipped, clock = [0], time.perf_counter
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock() + skipped[0])

    class Slow(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            skipped[0] += 1000

    fit(tmp_path, Throughput(), Slow(), val_check_interval=0.5)
    assert skipped[0] >= 4000  # two validations in each of two epochs
    measured = sum(seconds for _, seconds in read_metrics(tmp_path / "run/metrics.csv")["time/epoch_seconds"])
    assert measured < 1000


@pytest.mark.slow
def test_a_second_training_has_its_own_table(tmp_path, capsys):
    callback = Progress()
    for name in ("first", "second"):
        fit(tmp_path / name, callback, max_epochs=1)
        header, row = capsys.readouterr().out.splitlines()
        assert header.startswith("epoch ")
        assert len(callback.accuracies["train"]) == 1, row
