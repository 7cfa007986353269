"""Schedules: the factor of the learning rates at each step of a training."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch.optim import lr_scheduler

from lightning_cifar.errors import InputError

Schedule = Literal["constant", "triangular", "cosine", "one_cycle"]
START, END = 1 / 25, 1 / 25e4  # factors of ``one_cycle``


def build_schedule(
    optimizer: torch.optim.Optimizer, options: Mapping[str, Any], total: float
) -> lr_scheduler.LRScheduler:
    """Build a schedule of ``total`` steps, as the hyper-parameters say; the optimiser has the highest rates."""
    if total == math.inf:
        raise InputError("this schedule needs the training's length: set the Trainer's max_epochs or max_steps")
    warmup = options["warmup"]
    if options["schedule"] == "one_cycle":
        factor = build_one_cycle(total, 0.3 if warmup is None else warmup)
    else:
        factor = build_triangle(total, warmup or 0.0, cosine=options["schedule"] == "cosine")
    # Not torch's OneCycleLR and CosineAnnealingLR: they keep the length of a run that is resumed with another one.
    return lr_scheduler.LambdaLR(optimizer, factor)


def build_triangle(total: float, warmup: float, cosine: bool = False) -> Callable[[int], float]:
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


def build_one_cycle(total: float, warmup: float) -> Callable[[int], float]:
    """Return the factor of torch's OneCycleLR: along cosines, from `START` to 1 to `END` (arXiv 1708.07120)."""
    highest = warmup * total - 1

    def factor(step: int) -> float:
        if step < highest:
            return 1 + (START - 1) * fall_along_cosine(step / highest)
        return END + (1 - END) * fall_along_cosine((step - highest) / max(1.0, total - 1 - highest))

    return factor


def fall_along_cosine(share: float) -> float:
    """Return a value that falls from 1 to 0 while ``share`` goes from 0 to 1."""
    return (1 + math.cos(math.pi * min(1.0, max(0.0, share)))) / 2
