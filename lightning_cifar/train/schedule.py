"""Schedules: the factor of the learning rates at each step of a training."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import lr_scheduler

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError

Schedule = Literal["constant", "triangular", "cosine", "one_cycle"]
NO_LENGTH = "this schedule needs the training's length: set the Trainer's max_epochs or max_steps"


def build_schedule(
    optimizer: torch.optim.Optimizer, options: Mapping[str, Any], total: int
) -> lr_scheduler.LRScheduler:
    """Build a schedule of ``total`` steps, as the hyper-parameters say; the optimiser has the highest rates."""
    warmup = options["warmup"]
    if options["schedule"] == "one_cycle":
        factor = build_one_cycle(total, 0.3 if warmup is None else warmup)
    else:
        factor = build_triangle(total, warmup or 0.0, cosine=options["schedule"] == "cosine")
    # Not torch's OneCycleLR and CosineAnnealingLR: they keep the length of a run that is resumed with another one.
    return lr_scheduler.LambdaLR(optimizer, factor)


def build_triangle(total: int, warmup: float, cosine: bool = False) -> Callable[[int], float]:
    """Return the factor of the learning rate by step: from 0 to 1 in the share ``warmup`` of ``total``, then to 0.

    With ``cosine``, the rate falls along half a cosine (arXiv 1608.03983) and not in a straight line.
    """
    rise = warmup * total
    fall = max(1.0, total - rise)

    def factor(step: int) -> float:
        if step + 1 < rise:
            return (step + 1) / rise
        return fall_along_cosine((step - rise) / fall) if cosine else min(1.0, max(0.0, (total - step) / fall))

    return factor


def build_one_cycle(total: int, warmup: float, start: float = 1 / 25, end: float = 1 / 25e4) -> Callable[[int], float]:
    """Return the factor of torch's OneCycleLR: along cosines, from ``start`` to 1 to ``end`` (arXiv 1708.07120)."""
    highest = warmup * total - 1

    def factor(step: int) -> float:
        if step < highest:
            return 1 + (start - 1) * fall_along_cosine(step / highest)
        return end + (1 - end) * fall_along_cosine((step - highest) / max(1.0, total - 1 - highest))

    return factor


def fall_along_cosine(share: float) -> float:
    """Return a value that falls from 1 to 0 while ``share`` goes from 0 to 1."""
    return (1 + math.cos(math.pi * min(1.0, max(0.0, share)))) / 2


def count_steps(trainer: Trainer, data: CIFAR10DataModule | None) -> int:
    """Count a training's steps; the Trainer's estimate builds loaders again, for a subclass."""
    if data is None or type(data).train_dataloader is not CIFAR10DataModule.train_dataloader:
        if (total := trainer.estimated_stepping_batches) == math.inf:
            raise InputError(NO_LENGTH)
        return int(total)
    batches, limit = count_batches(data), trainer.limit_train_batches
    batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    bounds = [trainer.max_steps] if trainer.max_steps != -1 else []
    if trainer.max_epochs not in (None, -1):
        changes = [one for one in trainer.callbacks if isinstance(one, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
        sizes = [one.get_accumulate_grad_batches(epoch) for one in changes for epoch in range(trainer.max_epochs)]
        every = math.ceil(batches / trainer.accumulate_grad_batches)
        bounds.append(sum(math.ceil(batches / size) for size in sizes) if changes else trainer.max_epochs * every)
    if not bounds:
        raise InputError(NO_LENGTH)
    return min(bounds)


def count_batches(data: CIFAR10DataModule) -> int:
    """Return the number of training batches of an epoch."""
    batches = len(data.train) / data.hparams["batch_size"]
    return math.floor(batches) if data.hparams["drop_last"] else math.ceil(batches)
