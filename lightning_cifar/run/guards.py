"""Guards that end a training which cannot recover: NaN losses, and blocks whose gates are zero for every image."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor

from lightning_cifar.errors import DivergenceError
from lightning_cifar.model.blocks import GatedBlock
from lightning_cifar.train.classifier import ImageClassifier


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


# At most 256, and at most every fiftieth: a pass forward is a third of a step, so about 1 % of the time at most.
IMAGES, SHARE = 256, 50


class GateStatistics(Callback):
    """Logs, at each epoch's end, ``gates/block1_branch1`` ..., the mean weight that a block's gate gives a branch, and
    ``gates/block1_dead``, the share of images to which it gives none at all.

    They are of some training images, evenly spaced, not augmented; always the same ones; of an ensemble, over all its
    members. Static gates have nothing to tell; sharded weights (FSDP) are not gathered for it.

    Raises:
        DivergenceError: a block's ReLU gates are 0 for all of them and had no gradient in the last step. All that
            follows is then the same for every image, and no step can change that any more.
    """

    images: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        data = pl_module.datamodule
        static = pl_module.networks[0].blocks[0].gate.kind == "static"
        if data is not None and not static and not isinstance(trainer.strategy, FSDPStrategy):
            self.images = data.train.sample(max(1, min(IMAGES, len(data.train) // SHARE))).images.to(pl_module.device)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.images is None:
            return
        assert isinstance(pl_module, ImageClassifier)
        pixels = pl_module.normalise(self.images)
        pl_module.network.eval()
        with trainer.precision_plugin.forward_context():
            every = [[weights for weights, _ in network.iterate_blocks(pixels)] for network in pl_module.networks]
        pl_module.network.train()
        for network, through in zip(pl_module.networks, every, strict=True):
            for number, (block, weights) in enumerate(zip(network.blocks, through, strict=True), 1):
                if is_dead(block, weights):
                    raise DivergenceError(
                        f"in epoch {trainer.current_epoch + 1}, the gate of block {number} gives no branch any weight, "
                        "whatever the image: try a lower --model.gate_rate"
                    )
        for number, gates in enumerate(zip(*every, strict=True), 1):
            weights = torch.cat(gates)
            for branch, mean in enumerate(weights.float().mean((0, 2)), 1):
                pl_module.log(f"gates/block{number}_branch{branch}", mean)
            pl_module.log(f"gates/block{number}_dead", (weights == 0).all(2).all(1).float().mean())


def is_dead(block: GatedBlock, weights: Tensor) -> bool:
    """Whether ``weights``, of many images, are all 0, and the last step had no gradient that would change that."""
    gradients = [parameter.grad for parameter in block.gate.parameters()]
    return not weights.any() and not any(gradient is not None and gradient.any() for gradient in gradients)
