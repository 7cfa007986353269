"""FiniteLoss: ends a training whose loss or weights are no numbers any more, before a checkpoint is made of them."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class DivergenceError(RuntimeError):
    """Training went astray. The command line exits with status 3."""


class FiniteLoss(Callback):
    """Notes on the device at which step the loss was no number first, and reads it where training waits anyway.

    That is at logged steps; and, with the weights, before validation, at an epoch's end and before `LastCheckpoint`
    saves.

    Raises:
        DivergenceError: naming step and learning rate.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first = torch.tensor(-1.0, device=pl_module.device)  # the step; -1: none yet
        self.rates: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"].detach()
        step = max(self.rates)  # which it was taken in: global_step has moved on
        self.first = torch.where(loss.isfinite() | (self.first >= 0), self.first, float(step))
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set from outside
        if every and trainer.global_step % every == 0:
            self.check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.check_weights(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check_weights(trainer, pl_module)

    def check(self, trainer: Trainer) -> None:
        """Of several processes, all raise together."""
        first: Tensor = self.first
        if trainer.world_size > 1:
            first = trainer.strategy.reduce(first.clone(), reduce_op="max")
        step = int(first)
        if step >= 0:
            raise DivergenceError(f"the loss is no number any more since step {step}, {self.advice(step)}")
        self.rates = dict(sorted(self.rates.items())[-1:])

    def check_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """The loss tells of a step's weights a step later."""
        self.check(trainer)
        finite = [value.isfinite().all() for value in module.state_dict().values() if value.is_floating_point()]
        if not torch.stack(finite).all():
            step = max(self.rates, default=trainer.global_step)
            raise DivergenceError(f"the weights are no numbers any more after step {step}, {self.advice(step)}")

    def advice(self, step: int) -> str:
        rate = f"at learning rate {self.rates[step]:.4g}" if step in self.rates else "in another process"
        return f"{rate}: try a lower --model.learning_rate"
