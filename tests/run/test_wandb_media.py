"""What is shown of a test; that its tables hold what they should is read from records in tests/train."""

import numpy as np
import pytest
import torch

from lightning_cifar.evaluate.charts import draw_evaluation
from lightning_cifar.evaluate.evaluation import evaluate_logits
from lightning_cifar.run.wandb import finish, show_test, wandb_logger

pytest.importorskip("wandb")


@pytest.fixture
def result(tmp_path):
    logits = 5 * torch.eye(3)[torch.arange(12) % 3]
    found = evaluate_logits(logits, torch.arange(12) % 3, ("ant", "bee", "cat"), None)
    draw_evaluation(tmp_path / "test.png", found)
    return {**found, "accuracy_without_tta": 1.0, "mistakes": []}


def test_a_test_without_mistakes_is_shown_too(result, tmp_path, wandb_records, recwarn):
    logger = wandb_logger("offline", tmp_path)
    show_test(logger, result, None, tmp_path / "test.png")
    assert (logger.broken, len(recwarn)) == (False, 0)
    finish(logger, failed=False)
    assert "test/mistakes" in str(wandb_records(tmp_path))


def test_what_cannot_be_shown_costs_a_warning(result, tmp_path):
    logger = wandb_logger("offline", tmp_path)
    with pytest.warns(UserWarning, match="W&B failed, and is told no more of this run"):
        show_test(logger, result, np.zeros((1, 32, 32, 3), np.uint8), tmp_path / "absent.png")
    show_test(logger, result, None, tmp_path / "test.png")  # silent from then on
    finish(logger, failed=False)
