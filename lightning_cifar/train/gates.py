"""GateStatistics: what the gates do to training images, epoch by epoch; it ends a training whose gates have died."""

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor

from lightning_cifar.model.blocks import GatedBlock
from lightning_cifar.train.classifier import ImageClassifier
from lightning_cifar.train.finite import DivergenceError

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
        pixels = pl_module.normalised(self.images)
        pl_module.network.eval()
        with trainer.precision_plugin.forward_context():
            every = [[weights for weights, _ in network.through_blocks(pixels)] for network in pl_module.networks]
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
