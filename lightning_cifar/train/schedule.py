"""Schedules: the factor of the learning rates at each step of a training."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning import Trainer
from torch.optim import lr_scheduler

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError

Schedule = Literal["constant", "triangular", "cosine", "one_cycle"]


def build_schedule(
    optimizer: torch.optim.Optimizer, options: Mapping[str, Any], total: int
) -> lr_scheduler.LRScheduler:
    """Build the schedule of a training, unless its rates are constant.

    Args:
        optimizer: its rates are the highest ones.
        options: hyper-parameters of `ImageClassifier`.
        total: number of steps.
    """
    warmup = options["warmup"]
    if options["schedule"] == "triangular":
        return lr_scheduler.LambdaLR(optimizer, build_triangle(total, warmup or 0.0))
    if options["schedule"] == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        share = 0.3 if warmup is None else warmup
        # Not the momentum: a recorded step keeps it.
        return lr_scheduler.OneCycleLR(optimizer, rates, total, pct_start=share, cycle_momentum=False)
    rise = round((warmup or 0.0) * total)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - rise))
    if not rise:
        return fall
    rising = lr_scheduler.LinearLR(optimizer, 1 / (rise + 1), total_iters=rise)
    return lr_scheduler.SequentialLR(optimizer, [rising, fall], [rise])


def build_triangle(total: int, warmup: float) -> Callable[[int], float]:
    """Return the factor of the learning rate by step: from 0 to 1 in the share ``warmup`` of ``total``, then to 0."""
    rise = warmup * total

    def factor(step: int) -> float:
        if step + 1 < rise:
            return (step + 1) / rise
        return min(1.0, max(0.0, (total - step) / max(1.0, total - rise)))

    return factor


def count_steps(trainer: Trainer, data: CIFAR10DataModule | None) -> int:
    """Count a training's steps; the Trainer's ``estimated_stepping_batches`` would build the loaders once more."""
    if data is None:
        return int(trainer.estimated_stepping_batches)
    batches = len(data.train) / data.hparams["batch_size"]
    batches = math.floor(batches) if data.hparams["drop_last"] else math.ceil(batches)
    limit = trainer.limit_train_batches
    batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    bounds = [trainer.max_steps] if trainer.max_steps != -1 else []
    if trainer.max_epochs not in (None, -1):
        bounds.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    if not bounds:
        raise InputError("this schedule needs the training's length: set the Trainer's max_epochs or max_steps")
    return min(bounds)
