"""The table and JSON of a test, from logits made by hand."""

import json

import torch

from lightning_cifar.evaluate.evaluation import evaluate_logits
from lightning_cifar.evaluate.tables import format_table
from lightning_cifar.files import write_json

LABELS = torch.tensor([0] * 10 + [1] * 30)
PREDICTED = torch.tensor([0] * 8 + [1] * 2 + [0] + [1] * 29)
LOGITS = torch.nn.functional.one_hot(PREDICTED, 2) * torch.tensor(9.0).log()  # each class it names has 0.9


def test_the_table_has_a_row_for_each_class_and_the_scores():
    lines = format_table(evaluate_logits(LOGITS, LABELS, ("cat", "dog"), None)).splitlines()
    assert lines == [
        "class               recall  images",
        "cat                 80.00%      10",
        "dog                 96.67%      30",
        "accuracy            92.50%      40",
        "balanced accuracy   88.33%",
        "loss 0.2702, Brier score 0.1400, calibration error 0.0250",
        "area under the risk-coverage curve 0.1090",
    ]


def test_table_says_what_test_time_augmentation_gave_and_a_temperature():
    result = evaluate_logits(LOGITS, LABELS, ("cat", "dog"), 2.0) | {"accuracy_without_tta": 0.9}
    lines = format_table(result).splitlines()
    assert lines[5] == "without TTA         90.00%"
    assert lines[7].startswith("after temperature scaling by 2.000: loss ")


def test_balanced_accuracy_of_classes_of_one_size_is_the_accuracy():
    result = evaluate_logits(LOGITS[:20], LABELS[:20], ("cat", "dog"), None)
    assert result["balanced_accuracy"] is None
    assert "balanced" not in format_table(result)


def test_a_class_without_images_has_no_recall():
    result = evaluate_logits(LOGITS[:10], LABELS[:10], ("cat", "dog"), None)
    assert result["per_class"]["dog"] == {"recall": None, "images": 0}
    assert result["balanced_accuracy"] == result["per_class"]["cat"]["recall"] == 0.8
    assert "dog                      -       0" in format_table(result)


def test_json_is_what_was_evaluated(tmp_path):
    result = evaluate_logits(LOGITS, LABELS, ("cat", "dog"), None)
    write_json(tmp_path / "test.json", result)
    assert json.loads((tmp_path / "test.json").read_text()) == result


def test_a_table_is_straight_on_a_terminal():
    """Chinese letters are twice as wide, and a combining accent takes no column."""
    names = ("\u732b\u732b", "e\u0301t\u00e9")
    lines = format_table(evaluate_logits(LOGITS, LABELS, names, None)).splitlines()
    assert lines[1] == names[0] + 13 * " " + "   80.00%      10"
    assert lines[2] == names[1] + 14 * " " + "   96.67%      30"
