"""Figures of an evaluation: confusion matrix, calibration, risk-coverage curve, corruptions; images of the mistakes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_cifar.errors import format_count
from lightning_cifar.evaluate.tables import describe_partial
from lightning_cifar.files import write_whole
from lightning_cifar.run.figures.curves import choose_line_style
from lightning_cifar.run.figures.fonts import can_draw, choose_fonts, make_drawable
from lightning_cifar.run.figures.image_sheet import draw_sheet
from lightning_cifar.run.figures.png import render_figure

CAPTION_LINES = 2  # below each mistake
NAMED = 20  # classes with their names in the confusion matrix, at most


def draw_evaluation(file: Path, result: dict[str, Any]) -> None:
    """Write the result of `evaluate_logits` as a PNG."""
    panels = list_panels(result).values()
    figure = Figure(figsize=(5 * len(panels), 4.6), layout="constrained")
    with rc_context({"font.family": choose_fonts(result["per_class"])}):
        for number, draw in enumerate(panels, 1):
            draw(figure.add_subplot(1, len(panels), number), result)
    which = describe_partial(result) or format_count(result["images"], "image")
    # At the left, where no panel's title is.
    figure.suptitle(f"accuracy {result['accuracy']:.2%} on {which}", x=0.01, ha="left", weight="bold")
    write_whole(file, render_figure(figure))


def draw_mistakes(file: Path, pixels: Any, mistakes: Sequence[Mapping[str, Any]]) -> None:
    """Write the images of mistakes, uint8 (N, side, side, 3), N at least 1, with predicted and true class."""
    captions = [[f"{one['probability']:.0%} {one['prediction']}", f"true: {one['label']}"] for one in mistakes]
    write_whole(file, draw_sheet(pixels, captions))


def draw_confusion(axes: Axes, result: dict[str, Any]) -> None:
    names = make_drawable(result["per_class"])
    if not can_draw(result["per_class"]):
        names = [*map(str, range(len(names)))]
        axes.text(0, 1.12, "class numbers, in the order of test.json: no font for the names", transform=axes.transAxes)
    counts = np.array(result["confusion"])
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    # By the root, rare confusions show too. Not smoothed: the diagonal of many classes would fade.
    axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    numbers = "" if len(names) <= NAMED else ", class numbers in the order of test.json"
    axes.set(xlabel=f"predicted{numbers}", ylabel="true", title="confusion matrix, % of each true class")
    if not numbers:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share >= 0.005:
                    colour = "white" if share > 0.4 else "black"
                    axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)


def draw_calibration(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the accuracy in each bin of confidence as a bar, with its images; after temperature scaling as a point."""
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    bins = result["reliability"]
    count = len(bins["images"])
    for place, (images, accuracy) in enumerate(zip(bins["images"], bins["accuracy"], strict=True)):
        if images:
            axes.text((place + 0.5) / count, accuracy + 0.01, f"{images:,}", ha="center", fontsize=6)
    middles = [(place + 0.5) / count for place in range(count)]
    label = f"unscaled: ECE {result['calibration_error']:.3f}"
    axes.bar(middles, bins["accuracy"], 0.9 / count, color="#a6c8e4", edgecolor="#0072B2", label=label)
    if scaled := result["temperature_scaled"]:
        rows = zip(*(scaled["reliability"][name] for name in ("images", "confidence", "accuracy")), strict=True)
        points = [(confidence, accuracy) for images, confidence, accuracy in rows if images]
        label = f"temperature {result['temperature']:.2f}: ECE {scaled['calibration_error']:.3f}"
        axes.plot(*zip(*points, strict=True), "o", color="#D55E00", markersize=4, label=label)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.25))  # room for the legend
    axes.set_yticks([place / 5 for place in range(6)])
    axes.set_title("calibration, 15 bins with their images")
    axes.legend(loc="upper left", fontsize=8)


def draw_risk(axes: Axes, result: dict[str, Any]) -> None:
    curve = result["risk_coverage"]
    coverages, risks = ([100 * share for share in curve[name]] for name in ("coverage", "risk"))
    axes.plot(coverages, risks, marker="o", markersize=3)
    axes.set(xlabel="coverage: most confident images, %", ylabel="risk: error rate, %", title="risk-coverage curve")
    axes.set(xlim=(0, 100))
    axes.set_ylim(0, max(1, axes.get_ylim()[1]))


def draw_corruptions(axes: Axes, result: dict[str, Any]) -> None:
    found = result["corruptions"]
    for number, (name, accuracies) in enumerate(found.items()):
        values = [100 * accuracy for accuracy in (result["accuracy_without_tta"], *accuracies)]
        axes.plot(range(len(values)), values, markersize=4, label=make_drawable([name])[0], **choose_line_style(number))
    axes.set(xlabel="severity", ylabel="accuracy without TTA, %", ylim=(0, 100), title="corruptions")
    axes.legend(fontsize=8 if len(found) <= 7 else 6, ncols=1 + len(found) // 8)


PANELS = {
    "confusion": draw_confusion,
    "calibration": draw_calibration,
    "risk": draw_risk,
    "corruptions": draw_corruptions,
}


def list_panels(result: dict[str, Any]) -> dict[str, Callable[..., None]]:
    """Return the panels of a result, by name: not every test has a confusion matrix or corruptions."""
    absent = {name for name in ("confusion", "corruptions") if not result.get(name)}
    return {name: draw for name, draw in PANELS.items() if name not in absent}
