"""The curves of a run, from its ``metrics.csv``: loss and accuracy over epochs. Needs no torch, which takes seconds."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

METRICS = "metrics.csv"

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"train": "#0072B2", "val": "#D55E00", "test": "#D55E00"}
MANY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # of configurations

Series = dict[str, list[tuple[float, float]]]


def read_metrics(file: Path, steps_per_epoch: float | None = None) -> Series:
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
    series: Series = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("epoch", "step") and value:
                done = (int(row["step"]) + 1) / steps_per_epoch if steps_per_epoch else float(row["epoch"])
                series.setdefault(name, []).append((done, float(value)))
    return series


def plot_metrics(series: Series) -> Figure:
    """Two panels, loss and accuracy: faint points for single training steps, lines for epochs, the last value named."""
    figure = Figure(figsize=(10, 4), layout="constrained")  # no pyplot: it keeps every figure alive
    loss, accuracy = figure.subplots(1, 2)
    plot_losses({"": [series]}, loss)
    plot_accuracies({"": [series]}, accuracy)
    return figure


def plot_losses(runs: Mapping[str, Sequence[Series]], axes: Axes) -> None:
    """The panel of losses: of one run as in `plot_metrics`; of more, by name of configuration, their epochs alone."""
    plot_quantity(runs, axes, "loss", "{:.3f}")
    axes.set_ylabel("cross-entropy loss")


def plot_accuracies(runs: Mapping[str, Sequence[Series]], axes: Axes) -> None:
    """The panel of accuracies, as that of losses."""
    plot_quantity(runs, axes, "accuracy", "{:.1%}")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter("{x:.0%}")


def plot_quantity(runs: Mapping[str, Sequence[Series]], axes: Axes, name: str, form: str) -> None:
    """Of one configuration, a colour for each part; of more, a colour for each of them, and training dashed."""
    one = sum(map(len, runs.values())) == 1
    for number, (label, seeds) in enumerate(runs.items()):
        for part in ("train", "val", "test"):
            colour = COLOURS[part] if len(runs) == 1 else MANY_COLOURS[number % len(MANY_COLOURS)]
            words = f"{part} {name}" if len(runs) == 1 else f"{label}, {part}"
            for series in seeds:
                if one and (points := series.get(f"{part}/{name}_step")):
                    axes.plot(*zip(*points, strict=True), ".", color=colour, alpha=0.4, markersize=6, markeredgewidth=0)
                if points := series.get(f"{part}/{name}_epoch" if part == "train" else f"{part}/{name}"):
                    last = f" {form.format(points[-1][1])}" if one else ""
                    style = "--" if part == "train" and len(runs) > 1 else "-"
                    axes.plot(
                        *zip(*points, strict=True), style, marker="o", markersize=3, color=colour, label=words + last
                    )
                    words = "_"  # one line of the legend for all seeds
    axes.set(xlabel="epoch")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        if len(runs) == 1:
            axes.legend(frameon=False)
        else:
            axes.legend(frameon=False, fontsize=8, handlelength=3.5)
