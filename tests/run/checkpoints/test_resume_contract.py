"""Every internal name of Lightning and torchmetrics that resume uses exists; a missing one fails by its name."""

from typing import Any

import pytest

from lightning_cifar import CIFAR10DataModule, ImageClassifier
from lightning_cifar.run.checkpoints.resume import INTERNALS
from tests.trainer import make_quiet_trainer


@pytest.fixture(scope="module")
def owners() -> dict[str, Any]:
    """Return a trained Trainer, a metric, a logged result and a checkpoint, by the first component of a name."""
    trainer = make_quiet_trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    model = ImageClassifier(widths=(4, 4, 4, 4, 4))
    trainer.fit(model, CIFAR10DataModule(dataset="digits", batch_size=32))
    results = trainer.fit_loop.epoch_loop._results
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    return {
        "metric": model.held_out_accuracy,
        "result": next(result for result in results.values() if result.is_tensor),
        "checkpoint": checkpoint,
        "trainer": trainer,
    }


@pytest.mark.parametrize("name", INTERNALS)
def test_internal_name_exists(name, owners):
    first, *path = name.split("/")
    owner = owners.get(first, owners["trainer"])
    for attribute in path if first in owners else (first, *path):
        owner = owner.get(attribute) if isinstance(owner, dict) else getattr(owner, attribute, None)
        assert owner is not None, f"{name} is missing ({attribute}); resume.py needs it: {INTERNALS[name]}"
