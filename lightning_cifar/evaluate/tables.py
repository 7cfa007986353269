"""The result of ``test`` as a text table. Importing this module imports no torch."""

from typing import Any

from lightning_cifar.errors import format_count
from lightning_cifar.run.console.columns import count_columns

SUBSETS = {
    "without_label_errors": "with a confirmed label error",
    "without_near_duplicates": "with a near duplicate in train",
}


def format_table(result: dict[str, Any]) -> str:
    """Return the result of `evaluate_test` as a text table: a row for each class, then accuracy and calibration."""
    totals = {}
    if (balanced := result["balanced_accuracy"]) is not None:
        totals["balanced accuracy"] = balanced
    if result.get("accuracy_without_tta", result["accuracy"]) != result["accuracy"]:
        totals["without TTA"] = result["accuracy_without_tta"]
    if top5 := result.get("accuracy_top5"):
        totals["top 5"] = top5
    width = max(map(count_columns, ("accuracy", *totals, *result["per_class"])))
    lines = [f"{'class':<{width}}   recall  images"]
    for name, row in result["per_class"].items():
        recall = "-" if row["recall"] is None else f"{row['recall']:.2%}"
        lines.append(f"{name}{' ' * (width - count_columns(name))}  {recall:>7}  {row['images']:>6,}")
    lines.append(f"{'accuracy':<{width}}  {result['accuracy']:>7.2%}  {result['images']:>6,}")
    lines += [f"{name:<{width}}  {share:>7.2%}" for name, share in totals.items()]
    for key, meaning in SUBSETS.items():
        if found := result.get(key):
            excluded, images = result["images"] - found["images"], format_count(found["images"], "image")
            lines.append(f"{found['accuracy']:.2%} of {images}, without {excluded} {meaning}")
    if found := result.get("without_training_images"):
        rest = f"; {found['accuracy']:.2%} of the others" if found["images"] else ""
        same = result["images"] - found["images"]
        lines.append(f"warning: {same:,} of {result['images']:,} test images are among the training images{rest}")
    lines.append(format_scores(result))
    if scaled := result["temperature_scaled"]:
        lines.append(f"after temperature scaling by {result['temperature']:.3f}: {format_scores(scaled)}")
        if worse := describe_worse(result):
            lines.append(f"that temperature, fitted on held-out images, makes the {worse} worse: do not use it")
    lines.append(f"area under the risk-coverage curve {result['risk_coverage']['aurc']:.4f}")
    if partial := describe_partial(result):
        lines.append(f"partial test: {partial}")
    return "\n".join(lines)


def format_scores(result: dict[str, Any]) -> str:
    words = {"loss": "loss", "brier": "Brier score", "calibration_error": "calibration error"}
    return ", ".join(f"{name} {result[key]:.4f}" for key, name in words.items())


def describe_worse(result: dict[str, Any]) -> str:
    """Return ``loss and calibration error``, or the one of them that temperature scaling made worse; else nothing."""
    scaled = result["temperature_scaled"]
    names = {"loss": "loss", "calibration_error": "calibration error"}
    return " and ".join(name for key, name in names.items() if scaled and scaled[key] > result[key])


def describe_partial(result: dict[str, Any]) -> str:
    """Return ``64 of 360 test images`` if not all were tested; else nothing."""
    every = result.get("test_images", result["images"])  # older results lack it
    return f"{result['images']:,} of {every:,} test images" if result["images"] < every else ""
