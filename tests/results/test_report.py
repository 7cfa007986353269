"""The table and JSON of a test, and the rows of a prediction, from counts made by hand."""

import csv
import json

import torch

from lightning_cifar.results.report import evaluation, format_table, write_json, write_predictions

CONFUSION = torch.tensor([[8, 2], [1, 29]])


def test_evaluation_counts():
    result = evaluation(0.25, CONFUSION, ("cat", "dog"))
    assert (result["loss"], result["images"], result["accuracy"]) == (0.25, 40, 37 / 40)
    assert result["per_class"]["cat"] == {"accuracy": 0.8, "images": 10}
    assert result["confusion"] == [[8, 2], [1, 29]]


def test_a_class_without_images_has_no_accuracy():
    result = evaluation(0.25, torch.tensor([[8, 2], [0, 0]]), ("cat", "dog"))
    assert result["per_class"]["dog"] == {"accuracy": None, "images": 0}
    assert "dog                 -       0" in format_table(result)


def test_table():
    lines = format_table(evaluation(0.25, CONFUSION, ("cat", "dog"))).splitlines()
    assert lines == [
        "class        accuracy  images",
        "cat            80.00%      10",
        "dog            96.67%      30",
        "all classes    92.50%      40",
        "loss 0.2500",
    ]


def test_json_is_what_was_evaluated(tmp_path):
    result = evaluation(0.25, CONFUSION, ("cat", "dog"))
    write_json(tmp_path / "test.json", result)
    assert json.loads((tmp_path / "test.json").read_text()) == result


def test_predictions(tmp_path):
    file = tmp_path / "predictions.csv"
    write_predictions(file, torch.tensor([[0.25, 0.75], [0.9, 0.1]]), torch.tensor([1, 1]), ("cat", "a,b"))
    with file.open(newline="") as opened:
        assert list(csv.DictReader(opened)) == [
            {"index": "0", "label": "a,b", "prediction": "a,b", "probability": "0.750000"},
            {"index": "1", "label": "a,b", "prediction": "cat", "probability": "0.900000"},
        ]
