"""What `test` and `predict` tell: a table and its JSON, and one row of CSV per image."""

import csv
import json
from pathlib import Path
from typing import Any

from torch import Tensor


def evaluation(loss: float, confusion: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Loss, accuracy and per-class accuracy of a confusion matrix (true class, predicted class) of counts."""
    counts, correct = confusion.sum(1).tolist(), confusion.diag().tolist()
    return {
        "loss": loss,
        "accuracy": sum(correct) / sum(counts),
        "images": sum(counts),
        "per_class": {
            name: {"accuracy": right / count if count else None, "images": count}
            for name, right, count in zip(class_names, correct, counts, strict=True)
        },
        "confusion": confusion.tolist(),
    }


def format_table(result: dict[str, Any]) -> str:
    """The table of `evaluation`, for reading."""
    width = max(len("all classes"), *map(len, result["per_class"]))
    lines = [f"{'class':<{width}}  accuracy  images"]
    for name, row in result["per_class"].items():
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        lines.append(f"{name:<{width}}  {accuracy:>8}  {row['images']:>6,}")
    lines.append(f"{'all classes':<{width}}  {result['accuracy']:>8.2%}  {result['images']:>6,}")
    if result.get("accuracy_without_tta", result["accuracy"]) != result["accuracy"]:
        lines.append(f"{'without TTA':<{width}}  {result['accuracy_without_tta']:>8.2%}")
    lines.append(f"loss {result['loss']:.4f}")
    return "\n".join(lines)


def write_json(file: Path, result: dict[str, Any]) -> None:
    file.write_text(json.dumps(result, indent=2) + "\n")


def write_predictions(file: Path, probabilities: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> None:
    """A CSV with a row per image, in the order of the data: index, true class, predicted class, its probability."""
    confidence, predicted = probabilities.max(1)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["index", "label", "prediction", "probability"])
        rows = zip(labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
        for index, (label, prediction, probability) in enumerate(rows):
            writer.writerow([index, class_names[label], class_names[prediction], f"{probability:.6f}"])
