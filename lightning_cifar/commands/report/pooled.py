"""The tests of several seeds as one, in the form of `evaluation`."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def pooled(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Confusions and calibration over the tests of all seeds; temperature, risks and accuracies on average."""
    if len(tests) == 1:
        return tests[0]
    risks = [test["risk_coverage"] for test in tests]
    result = {
        "per_class": tests[0]["per_class"],  # for the names of the classes
        "confusion": np.sum([test["confusion"] for test in tests], 0).tolist(),
        "accuracy_without_tta": float(np.mean([test["accuracy_without_tta"] for test in tests])),
        "risk_coverage": {name: np.mean([risk[name] for risk in risks], 0).tolist() for name in ("coverage", "risk")},
        **pooled_trust(tests),
        "temperature_scaled": None,
    }
    if all(test["temperature_scaled"] for test in tests):
        result["temperature"] = float(np.mean([test["temperature"] for test in tests]))
        result["temperature_scaled"] = pooled_trust([test["temperature_scaled"] for test in tests])
    if all("corruptions" in test for test in tests):
        result["corruptions"] = {
            name: np.mean([test["corruptions"][name] for test in tests], 0).tolist() for name in tests[0]["corruptions"]
        }
    return result


def pooled_trust(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``reliability`` and ``calibration_error``, as of `trust`."""
    bins = [test["reliability"] for test in tests]
    images, confidence, accuracy = (
        np.array([one[name] for one in bins]) for name in ("images", "confidence", "accuracy")
    )
    total = images.sum(0)
    confidence, accuracy = ((images * one).sum(0) / total.clip(1) for one in (confidence, accuracy))
    return {
        "reliability": {
            "images": total.tolist(),
            "confidence": confidence.tolist(),
            "accuracy": accuracy.tolist(),
        },
        "calibration_error": float((total * abs(confidence - accuracy)).sum() / total.sum()),
    }
