"""LiveFigure: curves.png is drawn from metrics.csv during training."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError, LiveFigure, Throughput, main
from lightning_cifar.run.figures import live_figure
from lightning_cifar.run.figures.curves import plot_metrics, read_metrics
from tests.trainer import make_quiet_trainer


@pytest.mark.slow
def test_run_writes_curves_png(tmp_path, drawn_figures):
    logger = CSVLogger(tmp_path / "run", name="", version="")
    options = {"max_epochs": 2, "log_every_n_steps": 5, "callbacks": [LiveFigure(interval=0)]}
    trainer = make_quiet_trainer(logger=logger, **options)
    trainer.fit(ImageClassifier(widths=(4,) * 5), CIFAR10DataModule("digits", batch_size=128, val_size=200))
    series = read_metrics(tmp_path / "run/metrics.csv")
    assert [epoch for epoch, _ in series["train/loss_epoch"]] == [1.0, 2.0]
    assert [epoch for epoch, _ in series["train/accuracy_step"]] == [0.5, 1.0, 1.5, 2.0]
    assert series["val/loss"][-1][1] == pytest.approx(trainer.callback_metrics["val/loss"].item())
    with Image.open(tmp_path / "run/curves.png") as image:
        assert image.size == (1200, 480)
    loss, accuracy = plot_metrics(series, "a $run$").axes
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        labels = [text.get_text().rsplit(" ", 1)[0] for text in axes.get_legend().get_texts()]
        assert labels == ["train, single", f"train {name}", f"val {name}"]
    assert not (tmp_path / "run/.curves.png").exists()
    assert not (tmp_path / "run/.curves.png.partial").exists()


@pytest.mark.slow
def test_first_drawing_waits_for_the_interval(tiny, tmp_path, monkeypatch, drawn_figures):
    """A shorter training is drawn once, at its end."""
    drawn, draw = [], LiveFigure.draw

    def draw_and_count(callback, trainer):
        drawn.append(trainer.global_step)
        draw(callback, trainer)

    monkeypatch.setattr(LiveFigure, "draw", draw_and_count)
    assert main(["fit", *tiny, "--run_dir", str(tmp_path / "run")]) == 0
    assert drawn == [2]
    with Image.open(tmp_path / "run/curves.png") as image:
        assert image.size == (1200, 480)


def test_missing_csv_logger_is_an_error():
    trainer = make_quiet_trainer(max_epochs=1, callbacks=[LiveFigure()])
    with pytest.raises(InputError, match="give the Trainer a CSVLogger"):
        trainer.fit(ImageClassifier(widths=(4,) * 5), CIFAR10DataModule("digits", batch_size=128, val_size=200))


@pytest.mark.slow
@pytest.mark.filterwarnings("default:curves.png is drawn no more")
def test_an_error_in_drawing_does_not_end_training(tiny, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("Failed to process string with tex because latex could not be found")

    monkeypatch.setattr(live_figure, "plot_metrics", fail)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: curves.png is drawn no more: Failed to process string with tex")


@pytest.mark.slow
def test_metrics_that_a_user_has_edited_do_not_end_training(tiny, monkeypatch, capsys):
    def edit(*_):
        file = Path("run/metrics.csv")
        file.write_text(file.read_text().replace(",", ";"))

    monkeypatch.setattr(Throughput, "on_train_epoch_end", edit)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 0
    assert "run/metrics.csv is damaged" in capsys.readouterr().out
    assert ";" in Path("run/damaged-metrics.csv").read_text()
    assert read_metrics(Path("run/metrics.csv"))["train/loss_epoch"]
