"""log_test without mistakes and with missing files; test_wandb_records.py checks the logged tables."""

import json

import numpy as np
import pytest
import torch

from lightning_cifar.evaluate.charts import draw_evaluation
from lightning_cifar.evaluate.evaluation import evaluate_logits
from lightning_cifar.run.records.wandb import finish_wandb, log_test, start_wandb


@pytest.fixture
def result(tmp_path):
    logits = 5 * torch.eye(3)[torch.arange(12) % 3]
    found = evaluate_logits(logits, torch.arange(12) % 3, ("ant", "bee", "cat"), None)
    draw_evaluation(tmp_path / "test.png", found)
    return {**found, "accuracy_without_tta": 1.0, "mistakes": []}


def test_result_without_mistakes_is_logged(result, tmp_path, wandb_records, recwarn):
    logger = start_wandb("offline", tmp_path)
    log_test(logger, result, None, tmp_path / "test.png")
    assert (logger.broken, len(recwarn)) == (False, 0)
    finish_wandb(logger, failed=False)
    assert "test/mistakes" in str(wandb_records(tmp_path))


def test_names_of_files_are_not_sent(result, tmp_path, wandb_records):
    mistake = {"index": 0, "file": "secret/1.png", "label": "ant", "prediction": "bee"}
    logger = start_wandb("offline", tmp_path)
    log_test(logger, result | {"mistakes": [mistake]}, np.zeros((1, 32, 32, 3), np.uint8), tmp_path / "test.png")
    finish_wandb(logger, failed=False)
    assert "test/mistakes" in str(wandb_records(tmp_path))
    (table,) = tmp_path.rglob("mistakes*.table.json")
    assert json.loads(table.read_text())["columns"] == ["image", "index", "label", "prediction"]


def test_very_many_classes_have_no_confusion_matrix(result, tmp_path, monkeypatch, recwarn):
    """Nor does their result."""
    import wandb

    monkeypatch.setattr(wandb.plot, "confusion_matrix", lambda **_: pytest.fail("there are no confusions"))
    logger = start_wandb("offline", tmp_path)
    log_test(logger, result | {"confusion": None}, None, tmp_path / "test.png")
    assert (logger.broken, len(recwarn)) == (False, 0)
    finish_wandb(logger, failed=False)


def test_missing_plot_gives_one_warning(result, tmp_path):
    logger = start_wandb("offline", tmp_path)
    with pytest.warns(UserWarning, match="W&B failed and logs no more of this run"):
        log_test(logger, result, np.zeros((1, 32, 32, 3), np.uint8), tmp_path / "absent.png")
    log_test(logger, result, None, tmp_path / "test.png")  # no second warning
    finish_wandb(logger, failed=False)
