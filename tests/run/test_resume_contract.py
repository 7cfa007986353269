"""What exact resume reaches for in Lightning and torchmetrics: a release that drops a name is told by that name."""

from typing import Any

import pytest
from lightning import Trainer

from lightning_cifar import CIFAR10DataModule, ImageClassifier
from lightning_cifar.run.resume import INTERNALS


@pytest.fixture(scope="module")
def owners(tmp_path_factory) -> dict[str, Any]:
    """A Trainer that has trained an epoch, a metric, a logged result and a checkpoint, by the first part of a name."""
    folder = tmp_path_factory.mktemp("contract")
    trainer = Trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0, default_root_dir=folder, logger=False,
                      enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    model = ImageClassifier(widths=(4, 4, 4, 4, 4))
    trainer.fit(model, CIFAR10DataModule(dataset="digits", batch_size=32))
    results = trainer.fit_loop.epoch_loop._results
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    return {
        "metric": model.train_accuracy,
        "result": next(result for result in results.values() if result.is_tensor),
        "checkpoint": checkpoint,
        "trainer": trainer,
    }


@pytest.mark.parametrize("name", INTERNALS)
def test_lightning_still_has(name, owners):
    first, *path = name.split("/")
    owner = owners.get(first, owners["trainer"])
    for part in path if first in owners else (first, *path):
        owner = owner.get(part) if isinstance(owner, dict) else getattr(owner, part, None)
        assert owner is not None, f"{name} is gone ({part}), which run/resume.py needs: {INTERNALS[name]}"
