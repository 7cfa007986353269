"""Callbacks that stop training that cannot recover: NaN losses, and blocks whose gates are zero for every image."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from lightning_cifar.errors import DivergenceError
from lightning_cifar.model.blocks import GatedBlock
from lightning_cifar.networks.mode import evaluating
from lightning_cifar.train.classifier import ImageClassifier


def list_infinite_buffers(module: nn.Module) -> frozenset[str]:
    """Return the names of buffers that hold an infinity, such as the mask of an attention."""
    return frozenset(name for name, buffer in module.named_buffers() if buffer.isinf().any())


class FiniteLoss(Callback):
    """Stop training by a `DivergenceError` when the loss or a weight is NaN or infinite.

    The first such step is stored on the device and read only where training waits for the device anyway: at logged
    steps and, together with the weights, before validation, at the end of an epoch and before `LastCheckpoint` saves.

    A buffer that is infinite from the start is not checked.
    """

    infinite: frozenset[str] = frozenset()  # names of buffers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.infinite = list_infinite_buffers(pl_module)
        self.first = torch.tensor(-1.0, device=pl_module.device)  # step; -1: none yet
        self.rates: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"].detach()
        step = max(self.rates)  # the step of this loss: global_step is already the next
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
        """Raise if a loss was NaN or infinite in any process; all processes raise together."""
        first: Tensor = self.first
        if trainer.world_size > 1:
            first = trainer.strategy.reduce(first.clone(), reduce_op="max")
        step = int(first)
        if step >= 0:
            raise DivergenceError(f"the loss is NaN or infinite since step {step}, {self.give_advice(step)}")
        self.rates = dict(sorted(self.rates.items())[-1:])

    def check_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise if a loss or weight is NaN or infinite; weights show a bad update one step before the loss."""
        weights = {name: one for name, one in module.state_dict().items() if name not in self.infinite}
        values = [
            one for one in weights.values() if isinstance(one, Tensor) and (one.is_floating_point() or one.is_complex())
        ]
        norm = get_total_norm(values)  # started before the device is waited for
        self.check(trainer)
        # The norm of a NaN or an infinity is not finite; that of large finite values may not be either.
        if not norm.isfinite() and not all(value.isfinite().all() for value in values):
            step = max(self.rates, default=trainer.global_step)
            raise DivergenceError(f"the weights are NaN or infinite since step {step}, {self.give_advice(step)}")

    def give_advice(self, step: int) -> str:
        rate = f"at learning rate {self.rates[step]:.4g}" if step in self.rates else "in another process"
        return f"{rate}: try a lower --model.learning_rate"


# 2 % of the training images, at most 256: a forward pass is a third of a step, so this takes about 1 % of the time. At
# least 32: in a small folder, the gates of a few images may be zero while those of others are not.
FEWEST, IMAGES, EVERY = 32, 256, 50


class GateStatistics(Callback):
    """Log the gates at the end of each epoch, and stop training if a block's gates are zero for every sampled image.

    ``gates/block1_branch1`` and so on is the mean weight that a block's gate gives to a branch; ``gates/block1_dead``
    is the fraction of images for which all weights of the gate are zero. Both are computed on a fixed, evenly spaced
    sample of the training images, without augmentation, over all members of an ensemble. Nothing is logged for static
    gates, networks without gates and sharded weights (FSDP).

    Raises:
        DivergenceError: the ReLU gates of a block are zero for every sampled image and had no gradient in the last
            step. The block's output is then the same for every image, and no further step can change it.
    """

    images: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        data = pl_module.datamodule
        gated = [one for one in pl_module.five_block_nets if one.blocks[0].gate.kind != "static"]
        if data is not None and gated and not isinstance(trainer.strategy, FSDPStrategy):
            size = min(max(FEWEST, len(data.train) // EVERY), IMAGES)
            self.images = data.train.sample(size).images.to(pl_module.device)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.images is None:
            return
        assert isinstance(pl_module, ImageClassifier)
        sampled = self.sample_gates(pl_module, trainer)
        found = torch.stack([summarise_gates(gates) for gates in sampled]).cpu()  # (members, blocks, branches + 1)
        for network, blocks in zip(pl_module.five_block_nets, found, strict=True):
            for number, (block, (*_, dead)) in enumerate(zip(network.blocks, blocks, strict=True), 1):
                if dead == 1 and not has_gradient(block):
                    raise DivergenceError(
                        f"the gates of block {number} are zero for every sampled image (dead ReLU) in epoch "
                        f"{trainer.current_epoch + 1}: try a lower --model.gate_rate; if --init_from gave the "
                        "weights, train new ones"
                    )
        for number, (*means, dead) in enumerate(found.mean(0), 1):
            for branch, mean in enumerate(means, 1):
                pl_module.log(f"gates/block{number}_branch{branch}", mean)
            pl_module.log(f"gates/block{number}_dead", dead)

    def sample_gates(self, model: ImageClassifier, trainer: Trainer) -> list[list[Tensor]]:
        """Return the gates of each member's blocks, (images, branches, 1 or channels), for the sampled images."""
        assert self.images is not None
        pixels = model.normalise(self.images)
        with trainer.precision_plugin.forward_context(), evaluating(model.network):
            return [[gates for gates, _ in network.iterate_blocks(pixels)] for network in model.five_block_nets]


def summarise_gates(gates: Sequence[Tensor]) -> Tensor:
    """Return each block's mean weight of every branch and its fraction of images with zero gates, (blocks, N + 1)."""
    means = torch.stack([weights.float().mean((0, 2)) for weights in gates])
    dead = torch.stack([(weights == 0).flatten(1).all(1) for weights in gates]).float().mean(1, keepdim=True)
    return torch.cat([means, dead], 1)


def has_gradient(block: GatedBlock) -> bool:
    """Return whether the gate had a gradient in the last step."""
    gradients = [parameter.grad for parameter in block.gate.parameters()]
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)
