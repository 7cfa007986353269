"""Text tables, and the CSV of predictions."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cifar.files import open_atomically

if TYPE_CHECKING:
    from torch import Tensor


def format_table(result: dict[str, Any]) -> str:
    """Return the result of `evaluate_test` as a text table: a row for each class, then accuracy and calibration."""
    width = max(len("all classes"), *map(len, result["per_class"]))
    lines = [f"{'class':<{width}}  accuracy  images"]
    for name, row in result["per_class"].items():
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        lines.append(f"{name:<{width}}  {accuracy:>8}  {row['images']:>6,}")
    lines.append(f"{'all classes':<{width}}  {result['accuracy']:>8.2%}  {result['images']:>6,}")
    if result.get("accuracy_without_tta", result["accuracy"]) != result["accuracy"]:
        lines.append(f"{'without TTA':<{width}}  {result['accuracy_without_tta']:>8.2%}")
    lines.append(format_scores(result))
    if scaled := result["temperature_scaled"]:
        lines.append(f"after temperature scaling by {result['temperature']:.3f}: {format_scores(scaled)}")
    lines.append(f"area under the risk-coverage curve {result['risk_coverage']['aurc']:.4f}")
    return "\n".join(lines)


def format_scores(result: dict[str, Any]) -> str:
    words = {"loss": "loss", "brier": "Brier score", "calibration_error": "calibration error"}
    return ", ".join(f"{name} {result[key]:.4f}" for key, name in words.items())


def write_predictions(file: Path, probabilities: "Tensor", labels: "Tensor", class_names: tuple[str, ...]) -> None:
    """Write a CSV file with a row for each image, in the order of the data, atomically.

    Args:
        file: path of the CSV file.
        probabilities: of every class, (N, classes).
        labels: class indices, (N,).
        class_names: by class index.
    """
    confidence, predicted = probabilities.max(1)
    with open_atomically(file, newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["index", "label", "prediction", "probability"])
        rows = zip(labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
        for index, (label, prediction, probability) in enumerate(rows):
            writer.writerow([index, class_names[label], class_names[prediction], f"{probability:.6f}"])


def align_columns(rows: list[list[str]]) -> str:
    """Return a text table, with the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
