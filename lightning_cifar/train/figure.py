"""The report's figure, drawn from ``metrics.csv`` while training goes on: loss and accuracy over epochs."""

import csv
import io
import math
import sys
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_cifar.durable import write_whole
from lightning_cifar.errors import InputError
from lightning_cifar.train.numbers import METRICS, find_csv_logger

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"train": "#0072B2", "val": "#D55E00", "test": "#D55E00"}

SHARE = 0.01  # of the time, at most, goes into drawing


def read_metrics(file: Path, steps_per_epoch: float | None = None) -> dict[str, list[tuple[float, float]]]:
    """Lightning's ``metrics.csv`` as one series a column: (epochs done, value), empty cells left out.

    Args:
        file: the CSV.
        steps_per_epoch: optimiser steps of an epoch; None: told from the file, once an epoch has ended in it.
    """
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for row in rows:
        if steps_per_epoch is None and row.get("train/loss_epoch"):
            steps_per_epoch = (int(row["step"]) + 1) / (int(row["epoch"]) + 1)  # Lightning counts both from 0
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("epoch", "step") and value:
                done = (int(row["step"]) + 1) / steps_per_epoch if steps_per_epoch else float(row["epoch"])
                series.setdefault(name, []).append((done, float(value)))
    return series


def plot_metrics(series: dict[str, list[tuple[float, float]]]) -> Figure:
    """Two panels, loss and accuracy: faint points for single training steps, lines for epochs, the last value named."""
    figure = Figure(figsize=(10, 4), layout="constrained")  # no pyplot: it keeps every figure alive
    loss, accuracy = figure.subplots(1, 2)
    plot_quantity(loss, series, "loss", "cross-entropy loss", "{:.3f}")
    plot_quantity(accuracy, series, "accuracy", "accuracy", "{:.1%}")
    accuracy.yaxis.set_major_formatter("{x:.0%}")
    return figure


def plot_quantity(axes: Axes, series: dict[str, list[tuple[float, float]]], name: str, label: str, form: str) -> None:
    if points := series.get(f"train/{name}_step"):
        axes.plot(*zip(*points, strict=True), ".", color=COLOURS["train"], alpha=0.4, markersize=6, markeredgewidth=0)
    for part, column in (("train", f"train/{name}_epoch"), ("val", f"val/{name}"), ("test", f"test/{name}")):
        if points := series.get(column):
            last = form.format(points[-1][1])
            axes.plot(
                *zip(*points, strict=True), "o-", color=COLOURS[part], markersize=3, label=f"{part} {name} {last}"
            )
    axes.set(xlabel="epoch", ylabel=label)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)


class LiveFigure(Callback):
    """Redraws the figure while training: in place in a notebook, as ``curves.png`` beside ``metrics.csv`` elsewhere.

    Args:
        interval: least seconds between two drawings, which are also kept to a hundredth of the time; one takes
            about 0.2 s. The last one is drawn at the end.

    Raises:
        InputError: the trainer has no `CSVLogger`, whose file holds the numbers that are drawn.
    """

    def __init__(self, interval: float = 15.0) -> None:
        self.interval = interval
        self.next_drawing = 0.0
        self.display: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        rehearsal = getattr(trainer, "fast_dev_run", False)  # Lightning takes the loggers away
        if stage == "fit" and not rehearsal and find_csv_logger(trainer) is None:
            raise InputError("LiveFigure draws metrics.csv: give the Trainer a CSVLogger")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() > self.next_drawing:
            self.draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.draw(trainer)

    def draw(self, trainer: Trainer) -> None:
        logger = find_csv_logger(trainer)
        if logger is None or not trainer.is_global_zero or trainer.num_training_batches in (0, float("inf")):
            return
        started = time.monotonic()
        self.next_drawing = started + self.interval
        logger.save()
        metrics = Path(logger.log_dir) / METRICS
        if not metrics.exists():  # nothing logged yet
            return
        picture = io.BytesIO()
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        plot_metrics(read_metrics(metrics, steps_per_epoch)).savefig(picture, dpi=120, format="png")
        write_whole(metrics.with_name("curves.png"), picture.getvalue())
        if in_notebook():
            from IPython.display import Image, display

            image = Image(picture.getvalue(), width=800)
            if self.display is None:
                self.display = display(image, display_id=True)
            else:
                self.display.update(image)
        self.next_drawing = max(self.next_drawing, started + (time.monotonic() - started) / SHARE)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel; does not import IPython."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"
