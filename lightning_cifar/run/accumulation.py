"""Accumulated gradients: the mean over the batches there are, also in a last group that is not full."""

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.run.settings.options import to_list


class LastGroup(Callback):
    """Divide the gradients of an epoch's last group by its number of batches; Lightning divides as if it were full."""

    starting = True

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.starting:  # Lightning does not call it where a run is resumed within an epoch
            for one in find_callbacks(trainer, GradientAccumulationScheduler):
                one.on_train_epoch_start(trainer)
        self.starting = False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        size, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
        if batches != float("inf") and trainer.fit_loop.batch_idx >= batches - (rest := int(batches) % size):
            loss.register_hook(lambda gradient: gradient * (size / rest))


def accumulates(trainer: dict[str, Any]) -> bool:
    """Return whether gradients are accumulated: by the Trainer's option or by a callback."""
    scheduled = any(isinstance(one, GradientAccumulationScheduler) for one in to_list(trainer["callbacks"]))
    return trainer["accumulate_grad_batches"] != 1 or scheduled


def count_epoch_steps(trainer: Trainer) -> int | None:
    """Return the number of optimiser steps in a complete epoch; None if it is not known."""
    batches = trainer.num_training_batches
    return None if batches in (0, math.inf) else math.ceil(batches / trainer.accumulate_grad_batches)
