"""The curves of a run, from its ``metrics.csv``: loss and accuracy over epochs. Needs no torch, which takes seconds."""

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

METRICS = "metrics.csv"

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"train": "#0072B2", "val": "#D55E00", "test": "#D55E00"}


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
