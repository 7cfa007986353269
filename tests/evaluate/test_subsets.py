"""Accuracy without known images of CIFAR-10's test set, and the files of logits."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_cifar import main
from lightning_cifar.evaluate.evaluation import measure_top5
from lightning_cifar.evaluate.subsets import LABEL_ERRORS, evaluate_without, evaluate_without_label_errors
from lightning_cifar.sources import cifar

TINY = [
    "--model.widths",
    "[4,4,4,4,4]",
    "--model.kernel_sizes",
    "[1]",
    "--trainer.max_steps",
    "1",
    "--trainer.log_every_n_steps",
    "1",
]


@pytest.fixture
def outputs():
    """Logits and labels of 10,000 images, of which only the mislabelled ones are classified wrong."""
    labels = torch.randint(10, (10_000,))
    labels[[*LABEL_ERRORS]] = torch.tensor([*LABEL_ERRORS.values()])
    logits = torch.nn.functional.one_hot(labels, 10).float()
    logits[[*LABEL_ERRORS]] *= -1
    return logits, labels


def test_label_errors_are_left_out(outputs):
    assert len(LABEL_ERRORS) == 54  # as in arXiv 2103.14749
    assert evaluate_without_label_errors(*outputs) == {"accuracy": 1.0, "images": 9946}


def test_other_test_sets_have_no_known_label_errors(outputs):
    logits, labels = outputs
    assert evaluate_without_label_errors(logits.flip(0), labels.flip(0)) is None  # in another order
    assert evaluate_without_label_errors(logits[:9_000], labels[:9_000]) is None


def test_accuracy_without_positions():
    logits, labels = torch.eye(3)[[0, 1, 1, 0]], torch.tensor([0, 1, 2, 1])
    assert evaluate_without([2], logits, labels) == {"accuracy": pytest.approx(2 / 3), "images": 3}


def test_top5_counts_labels_among_the_five_likeliest():
    logits, labels = torch.randn(50, 12), torch.randint(12, (50,))
    ranks = [sum(other > row[label] for other in row) for row, label in zip(logits.tolist(), labels, strict=True)]
    assert measure_top5(logits, labels) == sum(rank < 5 for rank in ranks) / 50


def write_batches(root, labels):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        kept = labels if name == "test_batch" else labels[:20]
        images = np.random.default_rng(0).integers(256, size=(len(kept), 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images, "labels": kept.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))


@pytest.mark.slow
def test_the_command_measures_without_mislabelled_and_duplicate_images(outputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cifar, "check_integrity", lambda file, md5: True)
    write_batches(tmp_path, outputs[1])
    data = ["--data.root", str(tmp_path), "--data.batch_size", "20"]
    assert main(["fit", *data, *TINY, "--data.held_out", "test", "--trainer.limit_val_batches", "0",
                 "--run_dir", str(tmp_path / "run")]) == 0  # fmt: skip
    duplicates = tmp_path / "duplicates.csv"
    duplicates.write_text("TestID,TrainID,Judgment\n0,5,1\n7,5,2\n7,6,1\n")
    test = ["test", "--ckpt_path", str(tmp_path / "run/checkpoints/last.ckpt"), "--data.root", str(tmp_path)]
    assert main([*test, "--near_duplicates", str(duplicates), "--run_dir", str(tmp_path / "test")]) == 0
    result = json.loads((tmp_path / "test/test.json").read_text())
    with np.load(tmp_path / "test/predictions.npz") as found:
        right = found["logits"].argmax(1) == found["labels"]
        assert found["labels"].tolist() == outputs[1].tolist()
        assert found["logits_without_tta"].shape == (10_000, 10)
        assert [*found["class_names"]] == [f"class {number}" for number in range(10)]
    assert result["accuracy"] == right.mean()
    assert result["accuracy_top5"] is None
    assert result["without_label_errors"] == {"accuracy": np.delete(right, [*LABEL_ERRORS]).mean(), "images": 9946}
    assert result["without_near_duplicates"] == {"accuracy": np.delete(right, [0, 7]).mean(), "images": 9998}
    out = capsys.readouterr().out
    assert " of 9,946 images, without 54 with a confirmed label error\n" in out
    assert " of 9,998 images, without 2 with a near duplicate in train\n" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index\n5\n", "is not a CSV file with a column TestID of numbers"),
        ("TestID\nfive\n", "is not a CSV file with a column TestID of numbers"),
        ("TestID\n10000\n", "TestID must be in [0, 9999], and there must be one"),
        ("TestID\n", "TestID must be in [0, 9999], and there must be one"),
        ("", "list.csv cannot be read: No such file or directory"),
        ("TestID\n5\n", "--near_duplicates needs all 10,000 test images of CIFAR-10 or CIFAR-100"),
    ],
)
def test_wrong_lists_are_refused(trained, text, message, tmp_path, capsys):
    (tmp_path / "list.csv").write_text(text) if text else None
    test = ["test", "--ckpt_path", str(trained / "checkpoints/last.ckpt"), "--run_dir", str(tmp_path / "test")]
    assert main([*test, "--near_duplicates", str(tmp_path / "list.csv")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "test").exists()


@pytest.mark.slow
def test_test_images_that_were_trained_on_are_counted(image_folder, capsys):
    """A copy of a training image makes the accuracy too high; with copies only, there is no other."""
    options = [*TINY, "--data.dataset", "folder", "--data.root", str(image_folder), "--run_dir", "run"]
    (image_folder / "test/cat/image-00.bmp").write_bytes((image_folder / "train/dog/image-05.bmp").read_bytes())
    assert main(["fit", "--recipe", "report", *options]) == 0
    test = ["test", "--ckpt_path", "run", "--data.root", str(image_folder), "--run_dir"]
    assert main([*test, "one"]) == 0
    found = json.loads(Path("one/test.json").read_text())
    right, without = round(3 * found["accuracy"]), found["without_training_images"]
    assert without["images"] == 2
    assert round(2 * without["accuracy"]) in (right, right - 1)
    line = f"1 of 3 test images are among the training images; {without['accuracy']:.2%} of the others"
    assert line in capsys.readouterr().out
    for number, file in enumerate(sorted((image_folder / "test").rglob("*.bmp"))):
        file.write_bytes((image_folder / f"train/cat/image-{number:02}.bmp").read_bytes())
    assert main([*test, "all"]) == 0
    assert "warning: 3 of 3 test images are among the training images\n" in capsys.readouterr().out
    assert json.loads(Path("all/test.json").read_text())["without_training_images"] == {"accuracy": None, "images": 0}
