"""The training objective: cross-entropy of each network, with label smoothing, MixUp and CutMix."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2


class Objective:
    """Loss of one or several networks on a batch.

    Args:
        num_classes: K.
        label_smoothing: share of the target that is spread evenly over the classes.
        mixup: alpha of MixUp; 0: off.
        cutmix: alpha of CutMix; 0: off. With both, each batch uses one at random.
    """

    def __init__(self, num_classes: int, label_smoothing: float, mixup: float, cutmix: float) -> None:
        self.label_smoothing = label_smoothing
        transforms = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        mixes = [transform(alpha=alpha, num_classes=num_classes) for transform, alpha in transforms if alpha]
        self.mixes = v2.RandomChoice(mixes) if mixes else None

    def mix(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed pixels (B, C, H, W) and targets (B, K), or the pixels and labels (B,) if nothing is mixed."""
        if self.mixes is None:
            return pixels, labels
        mixed: tuple[Tensor, Tensor] = self.mixes(pixels, labels)
        return mixed

    def sum_losses(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Sum the cross-entropies of the networks' logits, so that each network learns as if trained separately."""
        losses = [F.cross_entropy(one, targets, label_smoothing=self.label_smoothing) for one in logits]
        return torch.stack(losses).sum()
