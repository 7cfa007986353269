"""Figures of an evaluation: confusion matrix, calibration, risk-coverage curve, corruptions; images of the mistakes."""

import base64
import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lightning_cifar.evaluate.fonts import can_draw, choose_fonts, make_drawable
from lightning_cifar.evaluate.tables import describe_partial
from lightning_cifar.files import write_whole

SHEET = 8  # mistakes in a row


def draw_evaluation(file: Path, result: dict[str, Any]) -> None:
    """Write the result of `evaluate_logits` as a PNG."""
    panels = [draw_confusion, draw_calibration, draw_risk, *([draw_corruptions] if "corruptions" in result else [])]
    figure = Figure(figsize=(5 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    with rc_context({"font.family": choose_fonts(result["per_class"])}):
        for number, draw in enumerate(panels, 1):
            draw(figure.add_subplot(1, len(panels), number), result)
    which = describe_partial(result) or f"{result['images']:,} images"
    figure.suptitle(f"accuracy {result['accuracy']:.2%} on {which}")
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write_whole(file, content.getvalue())


def draw_mistakes(file: Path, pixels: Any) -> None:
    """Write images, uint8 (N, H, W, 3), N at least 1, as one PNG with eight in a row, at their size."""
    count, height, width, _ = pixels.shape
    sheet = Image.new("RGB", (min(SHEET, count) * width, -(-count // SHEET) * height))
    for place, image in enumerate(pixels):
        sheet.paste(Image.fromarray(image), (place % SHEET * width, place // SHEET * height))
    write_whole(file, encode_png(sheet))


def draw_confusion(axes: Axes, result: dict[str, Any]) -> None:
    names = make_drawable(result["per_class"])
    if not can_draw(result["per_class"]):
        names = [*map(str, range(len(names)))]
        axes.text(0, 1.12, "class numbers, in the order of test.json: no font for the names", transform=axes.transAxes)
    shares = [[count / max(1, sum(row)) for count in row] for row in result["confusion"]]
    axes.imshow(
        [[share**0.5 for share in row] for row in shares], cmap="Blues", vmin=0, vmax=1
    )  # roots: rare confusions show too
    axes.set(xlabel="predicted", ylabel="true", title="confusion matrix, % of each true class")
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share >= 0.005:
                    colour = "white" if share > 0.4 else "black"
                    axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)


def draw_calibration(axes: Axes, result: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    images = result["reliability"]["images"]
    middles = [(place + 0.5) / len(images) for place in range(len(images))]
    shares = [count / sum(images) for count in images]
    axes.bar(middles, shares, 1 / len(images), color="lightgrey", label="fraction of images")
    curves = [("unscaled", result)]
    if result["temperature_scaled"]:
        curves.append((f"temperature {result['temperature']:.2f}", result["temperature_scaled"]))
    for name, one in curves:
        bins = one["reliability"]
        filled = [place for place, images in enumerate(bins["images"]) if images]
        x, y = ([bins[what][place] for place in filled] for what in ("confidence", "accuracy"))
        axes.plot(x, y, marker="o", markersize=3, label=f"{name}: ECE {one['calibration_error']:.3f}")
    axes.set(
        xlabel="confidence",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1),
        title="calibration, 15 bins",
    )
    axes.legend(loc="upper left", fontsize=8)


def draw_risk(axes: Axes, result: dict[str, Any]) -> None:
    curve = result["risk_coverage"]
    axes.plot(
        [100 * share for share in curve["coverage"]], [100 * risk for risk in curve["risk"]], marker="o", markersize=3
    )
    axes.set(
        xlabel="coverage: most confident images, %",
        ylabel="risk: error rate, %",
        xlim=(0, 100),
        title="risk-coverage curve",
    )
    axes.set_ylim(bottom=0)


def draw_corruptions(axes: Axes, result: dict[str, Any]) -> None:
    for name, accuracies in result["corruptions"].items():
        values = [100 * accuracy for accuracy in (result["accuracy_without_tta"], *accuracies)]
        axes.plot(range(len(values)), values, marker="o", markersize=3, label=make_drawable([name])[0])
    axes.set(xlabel="severity", ylabel="accuracy without TTA, %", ylim=(0, 100), title="corruptions")
    axes.legend(fontsize=8)


def encode_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG as a ``data:`` URI, for pages that load nothing."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
