"""The length of a training, in steps of the optimiser."""

import math
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_cifar.callbacks import find_callbacks


def count_steps(trainer: Trainer, data: Any) -> float:
    """Count a training's steps on a `CIFAR10DataModule`, or on loaders of the user's; infinity if it has no limit.

    The Trainer's ``estimated_stepping_batches`` builds the loaders once more, and takes the batches that a step has now
    for those of every step, which a GradientAccumulationScheduler changes.
    """
    from lightning_cifar.data.module import CIFAR10DataModule  # late: it imports this module

    if data is None or type(data).train_dataloader is not CIFAR10DataModule.train_dataloader:
        return trainer.estimated_stepping_batches
    batches, limit = count_batches(data), trainer.limit_train_batches
    batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    total = math.inf if trainer.max_steps == -1 else trainer.max_steps
    if trainer.max_epochs in (None, -1):
        return total
    changes = find_callbacks(trainer, GradientAccumulationScheduler)
    if not changes:
        return min(total, trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    sizes = [one.get_accumulate_grad_batches(epoch) for one in changes for epoch in range(trainer.max_epochs)]
    return min(total, sum(math.ceil(batches / size) for size in sizes))


def count_batches(data: Any) -> int:
    """Return the number of training batches of an epoch."""
    batches = len(data.train) / data.hparams["batch_size"]
    return math.floor(batches) if data.hparams["drop_last"] else math.ceil(batches)
