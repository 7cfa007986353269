"""The files that hold predictions of test images."""

import csv

import torch

from lightning_cifar.evaluate.test_results import write_predictions


def test_predictions_have_a_row_for_each_image(tmp_path):
    file = tmp_path / "predictions.csv"
    write_predictions(file, torch.tensor([[0.25, 0.75], [0.9, 0.1]]), torch.tensor([1, 1]), ("cat", "a,b"))
    with file.open(newline="") as opened:
        assert list(csv.DictReader(opened)) == [
            {"index": "0", "label": "a,b", "prediction": "a,b", "probability": "0.750000"},
            {"index": "1", "label": "a,b", "prediction": "cat", "probability": "0.900000"},
        ]


def test_predictions_of_a_folder_name_its_files(tmp_path):
    file = tmp_path / "predictions.csv"
    write_predictions(file, torch.tensor([[0.25, 0.75]]), torch.tensor([1]), ("cat", "dog"), ("dog/1.png", "dog/2.png"))
    assert file.read_text().splitlines() == ["index,label,prediction,probability,file", "0,dog,dog,0.750000,dog/1.png"]
