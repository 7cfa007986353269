"""The tests of two seeds as one, against an evaluation of the images of both."""

import pytest
import torch

from lightning_cifar.commands.report.pooled import pooled
from lightning_cifar.evaluate.evaluation import evaluation


def test_two_halves_are_the_whole():
    logits, labels = 2 * torch.randn(400, 4), torch.randint(4, (400,))
    logits[torch.arange(400), labels] += 1.5
    names = ("a", "b", "c", "d")
    whole = evaluation(logits, labels, names, 2.0)
    halves = [evaluation(logits[part], labels[part], names, 2.0) for part in (slice(200), slice(200, 400))]
    for half in halves:
        half["accuracy_without_tta"] = half["accuracy"]
    found = pooled(halves)
    assert found["confusion"] == whole["confusion"]
    for one, other in ((found, whole), (found["temperature_scaled"], whole["temperature_scaled"])):
        assert one["calibration_error"] == pytest.approx(other["calibration_error"], abs=1e-6)
        for name, values in other["reliability"].items():
            assert one["reliability"][name] == pytest.approx(values)
    assert found["temperature"] == 2
    assert found["accuracy_without_tta"] == pytest.approx(whole["accuracy"])


def test_one_is_itself():
    test = {"accuracy": 0.5}
    assert pooled([test]) is test
