"""Plots of loss and accuracy over epochs, from ``metrics.csv``. Does not import torch, which takes seconds."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lightning_cifar.run.figures.fonts import shorten

METRICS = "metrics.csv"
SPLITS = ("train", "val", "test")
PLOTTED = [f"{split}/{quantity}" for split in SPLITS for quantity in ("loss", "accuracy")]

# The colour-blind safe palette of Okabe and Ito.
COLOURS = {"train": "#0072B2", "val": "#D55E00", "test": "#D55E00"}
# For several configurations.
MANY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv"  # for more than these
MARGINS = {"left": 0.08, "right": 0.985, "top": 0.895, "bottom": 0.13, "wspace": 0.26}  # a layout would draw twice
LARGE_LOSS = 20  # no network that guesses among many classes has it

Series = dict[str, list[tuple[float, float]]]


def read_metrics(file: Path, steps_per_epoch: float | None = None) -> Series:
    """Return each column of Lightning's ``metrics.csv`` as a series of (epochs done, value), without empty cells.

    ``steps_per_epoch`` are the optimiser's in the last epoch; None: inferred from the first epoch that has ended.
    """
    with file.open(newline="") as opened:
        cells = [{name: value for name, value in row.items() if value} for row in csv.DictReader(opened)]
    rows = [row for row in cells if row.keys() - {"epoch", "step"}]
    series: Series = {}
    for row, done in zip(rows, count_epochs(rows, steps_per_epoch), strict=True):
        for name, value in row.items():
            if name not in ("epoch", "step"):
                series.setdefault(name, []).append((done, float(value)))
    return series


def count_epochs(rows: Sequence[dict[str, str]], steps_per_epoch: float | None) -> list[float]:
    """Return the epochs done at each row, by the steps at which epochs ended.

    A GradientAccumulationScheduler gives epochs different lengths. Lightning counts epochs and steps from 0. A run that
    continues from another one's checkpoint begins with a later epoch.
    """
    ends = {int(row["epoch"]) + 1: int(row["step"]) + 1 for row in rows if "train/loss_epoch" in row}
    if steps_per_epoch is None:
        if not ends:
            return [float(row["epoch"]) for row in rows]
        epoch, step = next(iter(ends.items()))
        steps_per_epoch = step / epoch
    done = np.array([int(row["step"]) + 1 for row in rows], dtype=float)
    numbers = [int(row["epoch"]) for row in rows if "epoch" in row] or [0]
    first, last = min(numbers), max(numbers)
    start = ends.get(first + 1, done[0]) - steps_per_epoch if first else 0.0
    ends.pop(last + 1, None)  # may have ended early
    epochs, steps = [float(first), *map(float, ends)], [start, *map(float, ends.values())]
    placed: list[float] = (np.interp(done, steps, epochs) + np.maximum(0, done - steps[-1]) / steps_per_epoch).tolist()
    return placed


def plot_metrics(series: Series, title: str = "") -> Figure:
    """Plot loss and accuracy of a run in two panels: points for steps, lines for epochs with the last value."""
    figure = Figure(figsize=(10, 4))  # pyplot would keep every figure in memory
    if title.isascii():  # the default font lacks many other characters
        figure.suptitle(shorten(title, 80).replace("$", r"\$"))
    loss, accuracy = figure.subplots(1, 2, gridspec_kw=MARGINS)
    plot_losses({"": [series]}, loss)
    plot_accuracies({"": [series]}, accuracy)
    return figure


def plot_losses(runs: Mapping[str, Sequence[Series]], axes: Axes) -> None:
    """Plot the losses of runs, given by name of configuration; points for training steps only if there is one run."""
    plot_quantity(runs, axes, "loss", "{:.3f}")
    axes.set_ylabel("cross-entropy loss")
    axes.ticklabel_format(axis="y", scilimits=(-2, 5))  # not 0.000115
    drawn = [value for line in axes.lines for value in np.asarray(line.get_ydata(), float).tolist()]
    values = [value for value in drawn if 0 < value < math.inf]
    if values and max(values) > max(LARGE_LOSS, 100 * min(values)):  # a line would lie on the axis from then on
        axes.set_yscale("log", nonpositive="clip")


def plot_accuracies(runs: Mapping[str, Sequence[Series]], axes: Axes) -> None:
    """Plot the accuracies of runs, as `plot_losses` does."""
    plot_quantity(runs, axes, "accuracy", "{:.1%}")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def choose_line_style(number: int) -> dict[str, Any]:
    """Return colour and marker of a line among many: 35 that differ, for colour-blind readers too."""
    row, column = divmod(number, len(MANY_COLOURS))
    return {"color": MANY_COLOURS[column], "marker": MARKERS[row % len(MARKERS)]}


def plot_quantity(runs: Mapping[str, Sequence[Series]], axes: Axes, name: str, number_format: str) -> None:
    """Plot a quantity with a colour per split; of several configurations, a colour for each, training dashed."""
    is_single = sum(map(len, runs.values())) == 1
    for number, (label, seeds) in enumerate(runs.items()):
        for split in SPLITS:
            look = choose_line_style(number) if len(runs) > 1 else {"color": COLOURS[split], "marker": "o"}
            text = f"{split} {name}" if len(runs) == 1 else f"{label}, {split}"
            for series in seeds:
                alone = series.get(f"{split}/{name}", [])  # Lightning adds the endings where a module logs both
                by_epoch = split != "train" or all(done.is_integer() for done, _ in alone)
                if is_single and (points := series.get(f"{split}/{name}_step", [] if by_epoch else alone)):
                    (dots,) = axes.plot(*zip(*points, strict=True), ".", color=look["color"], alpha=0.4)
                    dots.set(markersize=6, markeredgewidth=0, label=f"{split}, single steps")
                if points := series.get(f"{split}/{name}_epoch", alone if by_epoch else []):
                    last = f" {number_format.format(points[-1][1])}" if is_single else ""
                    style = "--" if split == "train" and len(runs) > 1 else "-"
                    axes.plot(*zip(*points, strict=True), style, markersize=3, label=text + last, **look)
                    text = "_"  # one legend entry for all seeds
    axes.set(xlabel="epoch")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        if len(runs) == 1:
            axes.legend(frameon=False)
        else:
            axes.legend(frameon=False, fontsize=8, handlelength=3.5)
