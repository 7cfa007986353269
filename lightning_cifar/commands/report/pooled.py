"""The tests of several seeds pooled into one, in the format of `evaluate_test`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_cifar.evaluate.scores import measure_calibration_error


def pool_tests(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum images, confusion matrices and calibration bins over the tests; average the other values."""
    if len(tests) == 1:
        return tests[0]
    risks = [test["risk_coverage"] for test in tests]
    result = {
        "per_class": pool_classes([test["per_class"] for test in tests]),
        "confusion": None,
        "accuracy_without_tta": float(np.mean([test["accuracy_without_tta"] for test in tests])),
        "risk_coverage": {name: np.mean([risk[name] for risk in risks], 0).tolist() for name in ("coverage", "risk")},
        **pool_calibration(tests),
        "temperature_scaled": None,
    }
    if all(test["confusion"] for test in tests):
        result["confusion"] = np.sum([test["confusion"] for test in tests], 0).tolist()
    if all(test["temperature_scaled"] for test in tests):
        result["temperature"] = float(np.mean([test["temperature"] for test in tests]))
        result["temperature_scaled"] = pool_calibration([test["temperature_scaled"] for test in tests])
    corruptions = [test.get("corruptions", {}) for test in tests]
    if shared := [name for name in corruptions[0] if all(name in one for one in corruptions)]:
        result["corruptions"] = {name: np.mean([one[name] for one in corruptions], 0).tolist() for name in shared}
    return result


def pool_classes(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return recall and test images of each class, of all images together."""
    pooled = {}
    for name, *rows in zip(tests[0], *(test.values() for test in tests), strict=True):
        images = sum(row["images"] for row in rows)
        hits = sum(row["images"] * (row["recall"] or 0) for row in rows)
        pooled[name] = {"recall": hits / images if images else None, "images": images}
    return pooled


def pool_calibration(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return ``reliability`` and ``calibration_error`` of all images together."""
    bins = [test["reliability"] for test in tests]
    images, confidence, accuracy = (
        np.array([one[name] for one in bins]) for name in ("images", "confidence", "accuracy")
    )
    total = images.sum(0)
    means = [((images * values).sum(0) / total.clip(1)).tolist() for values in (confidence, accuracy)]
    pooled = {"images": total.tolist(), "confidence": means[0], "accuracy": means[1]}
    return {"reliability": pooled, "calibration_error": measure_calibration_error(pooled)}
