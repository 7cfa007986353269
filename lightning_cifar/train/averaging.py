"""Averages of the weights on the way: `EMA` beside training, `Lookahead` within it."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_cifar.errors import InputError


class EMA(WeightAveraging):
    """Validates, tests and ends with an exponential moving average of weights and batch norm's statistics.

    Lightning's ``EMAWeightAveraging`` gives the same, tensor by tensor; this one takes all of them at once.

    Args:
        decay: share of the old average that each step keeps, in [0, 1).
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay must be in [0, 1), got {decay}")
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))


class Lookahead(Callback):
    """Every few steps, moves slow weights towards the trained ones and goes on from there (arXiv 1907.08610).

    Args:
        every: optimiser steps between two moves (k of the paper), at least 1.
        rate: share of the way that the slow weights go (alpha), in (0, 1].
    """

    def __init__(self, every: int = 5, rate: float = 0.5) -> None:
        if every < 1:
            raise InputError(f"every must be at least 1, got {every}")
        if not 0 < rate <= 1:
            raise InputError(f"rate must be in (0, 1], got {rate}")
        self.every, self.rate = every, rate
        self.slow: list[Tensor] = []
        self.moved_at = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.slow, self.moved_at = [], 0  # those of an earlier fit are of another model

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = trained(pl_module)
        stored = self.slow or weights
        self.slow = [slow.to(weight, copy=True) for slow, weight in zip(stored, weights, strict=True)]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % self.every == 0 and step != self.moved_at:  # not again while gradients are accumulated
            self.moved_at = step
            weights = trained(pl_module)
            torch._foreach_lerp_(self.slow, weights, self.rate)
            torch._foreach_copy_(weights, self.slow)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self.slow, "moved_at": self.moved_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.slow, self.moved_at = state_dict["slow"], state_dict["moved_at"]


def trained(module: LightningModule) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
