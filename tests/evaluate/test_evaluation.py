"""Metrics of logits, compared with plain sums over images and with values computed by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lightning_cifar.errors import DivergenceError
from lightning_cifar.evaluate import evaluation as module
from lightning_cifar.evaluate.charts import draw_evaluation
from lightning_cifar.evaluate.evaluation import (
    COVERAGES,
    evaluate_logits,
    find_mistakes,
    fit_temperature,
    risk_coverage,
    score_probabilities,
)

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def outputs():
    """Logits of 300 images that are right more often than not, and their labels."""
    labels = torch.randint(4, (300,))
    return torch.randn(300, 4) + 2 * torch.nn.functional.one_hot(labels, 4), labels


def test_accuracy_recalls_and_confusions_are_counted(outputs):
    logits, labels = outputs
    result = evaluate_logits(logits, labels, NAMES, None)
    counts = [[0] * 4 for _ in range(4)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        counts[label][row.index(max(row))] += 1
    assert result["confusion"] == counts
    assert result["images"] == 300
    assert result["accuracy"] == sum(counts[i][i] for i in range(4)) / 300
    assert result["per_class"]["b"] == {"recall": counts[1][1] / sum(counts[1]), "images": sum(counts[1])}
    recalls = [counts[i][i] / sum(counts[i]) for i in range(4)]
    assert result["balanced_accuracy"] == pytest.approx(sum(recalls) / 4)
    assert result["temperature"] is result["temperature_scaled"] is None


def test_scores_equal_sums_over_images(outputs):
    logits, labels = outputs
    loss = brier = 0.0
    bins = [[0, 0.0, 0] for _ in range(15)]  # images, confidence, right
    for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True):
        loss -= math.log(row[label])
        brier += sum((p - (k == label)) ** 2 for k, p in enumerate(row))
        confidence = max(row)
        place = bins[min(14, math.ceil(confidence * 15) - 1)]
        place[0] += 1
        place[1] += confidence
        place[2] += row.index(confidence) == label
    error = sum(abs(confidence - right) for _, confidence, right in bins) / 300
    expected = {"loss": loss / 300, "brier": brier / 300, "calibration_error": error}
    found = score_probabilities(logits, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found["reliability"]["images"] == [images for images, *_ in bins]
    for name, column in (("confidence", 1), ("accuracy", 2)):
        assert found["reliability"][name] == pytest.approx([one[column] / max(1, one[0]) for one in bins])


def test_confidence_near_one_is_in_the_last_bin(outputs):
    logits, labels = outputs
    found = score_probabilities(100 * logits, labels)
    bins = found["reliability"]
    gaps = [
        images * abs(confidence - accuracy)
        for images, confidence, accuracy in zip(bins["images"], bins["confidence"], bins["accuracy"], strict=True)
    ]
    assert bins["confidence"][-1] == pytest.approx(1, abs=1e-3)
    assert found["calibration_error"] == pytest.approx(sum(gaps) / 300, abs=1e-6)


def test_temperature_undoes_a_scale(outputs):
    logits, labels = outputs
    found = fit_temperature(logits, labels)
    assert fit_temperature(5 * logits, labels) == pytest.approx(5 * found, rel=1e-4)
    assert fit_temperature(logits.log_softmax(1), labels) == pytest.approx(found, rel=1e-4)
    losses = {scale: score_probabilities(logits / (scale * found), labels)["loss"] for scale in (0.99, 1.0, 1.01)}
    assert min(losses, key=losses.get) == 1.0


def test_a_probability_of_zero_has_a_finite_temperature(outputs):
    """Softmax underflows to 0 if logits are far apart."""
    logits, labels = outputs
    sure = (1000 * logits).softmax(1)
    assert (sure == 0).any()
    data = SimpleNamespace(
        hparams={"held_out": "val"},
        train=None,
        val=SimpleNamespace(labels=labels),
        test=labels,
        val_dataloader=lambda: None,
        dataset=SimpleNamespace(class_names=NAMES, test_files=()),
    )
    model = SimpleNamespace(temperature=1.0, test_outputs=SimpleNamespace(compute=lambda: (logits, logits, labels)))
    result = module.evaluate_test(model, data, SimpleNamespace(predict=lambda *_: [sure]))
    assert math.isfinite(result["temperature"])


def test_temperature_is_used(outputs):
    logits, labels = outputs
    result = evaluate_logits(logits, labels, NAMES, 2.0)
    assert result["temperature_scaled"] == score_probabilities(logits / 2, labels)
    assert result["loss"] == score_probabilities(logits, labels)["loss"]


def test_risk_coverage_by_hand():
    """Confidences fall from image to image; the last two of twenty are wrong."""
    logits = torch.stack([torch.arange(20, 0, -1.0), torch.zeros(20)], 1)
    labels = torch.tensor([0] * 18 + [1] * 2)
    found = risk_coverage(logits, labels)
    assert found["coverage"] == COVERAGES
    assert found["risk"] == pytest.approx([0] * 18 + [1 / 19, 2 / 20])
    assert found["aurc"] == pytest.approx((1 / 19 + 2 / 20) / 20)


def test_mistakes_are_the_most_confident_wrong_ones():
    logits = torch.tensor([[3.0, 0, 0], [0, 2, 0], [0, 0, 5], [1, 0, 0]])
    labels = torch.tensor([1, 1, 0, 2])
    found = find_mistakes(logits, labels, ("cat", "dog", "cow"))
    assert [(one["index"], one["label"], one["prediction"]) for one in found] == [
        (2, "cat", "cow"),
        (0, "dog", "cat"),
        (3, "cow", "cat"),
    ]
    assert found[0]["probability"] == pytest.approx(logits[2].softmax(0)[2].item())
    assert found[0]["probability_of_label"] == pytest.approx(logits[2].softmax(0)[0].item())
    assert find_mistakes(logits[1:2], labels[1:2], ("cat", "dog", "cow")) == []


def test_the_order_of_confident_images_is_not_rounded_away():
    """Both confidences are 1 in float32."""
    found = risk_coverage(torch.tensor([[20.0, 0.0], [30.0, 0.0]]), torch.tensor([1, 0]))
    assert found["aurc"] == pytest.approx((0 + 1 / 2) / 2)


def test_outputs_that_are_not_finite_are_refused(outputs):
    logits, labels = outputs
    logits[7, 1], logits[9, 0] = math.nan, math.inf
    model = SimpleNamespace(temperature=2.0, test_outputs=SimpleNamespace(compute=lambda: (logits, logits, labels)))
    with pytest.raises(DivergenceError, match="outputs are NaN or infinite for 2 of 300 images"):
        module.evaluate_test(model, None, None)


def test_no_temperature_is_fitted_where_all_are_right(outputs):
    """It would fall towards 0."""
    logits, labels = outputs
    data = SimpleNamespace(
        train=None,
        val=SimpleNamespace(labels=logits.argmax(1)),
        test=labels,
        val_dataloader=lambda: None,
        dataset=SimpleNamespace(class_names=NAMES, test_files=()),
    )
    model = SimpleNamespace(temperature=1.0, test_outputs=SimpleNamespace(compute=lambda: (logits, logits, labels)))
    trainer = SimpleNamespace(predict=lambda *_: [logits.softmax(1)])
    assert module.evaluate_test(model, data, trainer)["temperature"] is None


def test_more_than_1000_classes_have_recalls_without_a_confusion_matrix(tmp_path):
    labels = torch.arange(1001).repeat(2)
    logits = F.one_hot(labels.clamp(max=999), 1001).float()
    result = evaluate_logits(logits, labels, tuple(map(str, range(1001))), None)
    assert (result["confusion"], result["accuracy"], result["balanced_accuracy"]) == (None, 1000 / 1001, None)
    assert result["per_class"]["999"] == {"recall": 1, "images": 2}
    assert result["per_class"]["1000"] == {"recall": 0, "images": 2}
    draw_evaluation(tmp_path / "test.png", result | {"test_images": 2002})
    assert (tmp_path / "test.png").exists()
