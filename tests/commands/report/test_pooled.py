"""Tests of two seeds pooled, compared with one evaluation of all images."""

import pytest
import torch

from lightning_cifar.commands.report.page import list_recalls
from lightning_cifar.commands.report.pooled import pool_tests
from lightning_cifar.evaluate.evaluation import evaluate_logits


def test_two_halves_pool_to_the_whole():
    logits, labels = 2 * torch.randn(400, 4), torch.randint(4, (400,))
    logits[torch.arange(400), labels] += 1.5
    names = ("a", "b", "c", "d")
    whole = evaluate_logits(logits, labels, names, 2.0)
    halves = [evaluate_logits(logits[part], labels[part], names, 2.0) for part in (slice(200), slice(200, 400))]
    for half in halves:
        half["accuracy_without_tta"] = half["accuracy"]
    found = pool_tests(halves)
    assert found["confusion"] == whole["confusion"]
    recalls = [f"{100 * row['recall']:.2f}" for row in whole["per_class"].values()]
    assert [recall for _, recall, _ in list_recalls(found, tests=1)] == recalls
    for one, other in ((found, whole), (found["temperature_scaled"], whole["temperature_scaled"])):
        assert one["calibration_error"] == pytest.approx(other["calibration_error"], abs=1e-6)
        for name, values in other["reliability"].items():
            assert one["reliability"][name] == pytest.approx(values)
    assert found["temperature"] == 2
    assert found["accuracy_without_tta"] == pytest.approx(whole["accuracy"])


def test_only_the_corruptions_of_all_tests_are_pooled():
    """CIFAR-10-C may have been there for one seed only."""
    logits, labels = torch.randn(20, 3), torch.randint(3, (20,))
    tests = [evaluate_logits(logits, labels, ("a", "b", "c"), None) | {"accuracy_without_tta": 0.5} for _ in range(3)]
    assert "corruptions" not in pool_tests(tests)
    for noise, test in enumerate(tests):
        test["corruptions"] = {"noise": [noise / 10] * 5}
    tests[0]["corruptions"]["CIFAR-10-C fog"] = [0.5] * 5
    found = pool_tests(tests)["corruptions"]
    assert found == {"noise": [pytest.approx(0.1)] * 5}
    del tests[1]["corruptions"]
    assert "corruptions" not in pool_tests(tests)


def test_a_single_test_is_returned():
    test = {"accuracy": 0.5}
    assert pool_tests([test]) is test
