"""The training objective: cross-entropy of each network, with class weights, label smoothing, MixUp and CutMix."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from lightning_cifar.errors import InputError

STEPS = {"train": "training_step", "val": "validation_step", "test": "test_step"}
TRANSFERS = ("transfer_batch_to_device", "on_after_batch_transfer")  # in which a subclass may change labels
ClassWeights = Literal["balanced"] | Sequence[float] | None


def convert_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels (B,) of any integer type as int64, and soft ones (B, K) as they are; `InputError` for others."""
    soft, kind = labels.is_floating_point(), f"whole numbers from 0 to {num_classes - 1}"
    if not labels.ndim or labels.shape[1:] != ((num_classes,) if soft else ()):
        found = f"{labels.dtype} {[*labels.shape]}"
        raise InputError(f"labels must be {kind}, or probabilities (B, {num_classes}), got {found}")
    if not soft and labels.is_cpu and len(labels):  # a GPU would wait
        low, high = map(int, labels.long().aminmax())
        if low < 0 or high >= num_classes:
            raise InputError(f"labels must be {kind}, got {f'{low}: leave out unlabelled images' if low < 0 else high}")
    return labels if soft else labels.long()


def convert_batch(batch: Any, module: LightningModule, reference: type[LightningModule]) -> Any:
    """Convert the labels of a batch for a step of ``reference``; other batches, and those to predict, stay as given."""
    step = STEPS.get(getattr(module.trainer.state.stage, "dataloader_prefix", "")) if is_pair(batch) else None
    if step and not any(is_overridden(name, module, reference) for name in (step, *TRANSFERS)):
        return batch[0], convert_labels(batch[1], module.hparams["num_classes"])
    return batch


def is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)


def split_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the images and the labels of a batch; `InputError` for one that has other parts."""
    if is_pair(batch):
        return batch[0], batch[1]
    found = ", ".join(type(one).__name__ for one in (batch if isinstance(batch, tuple | list) else [batch]))
    remedy = "return such pairs from the dataset, or override training_step, validation_step and test_step"
    raise InputError(f"a batch must be a tensor of images and one of labels, got {found}: {remedy}")


class Objective(nn.Module):
    """Loss of one or several networks on a batch.

    Args:
        num_classes: K.
        label_smoothing: share of the target that is spread evenly over the classes.
        mixup: alpha of MixUp; 0: off.
        cutmix: alpha of CutMix; 0: off. With both, each batch uses one at random.
        class_weights: K numbers; ``balanced``: `weigh` sets them later; None: all classes count alike.
    """

    weights: Tensor | None  # not in the state dict: a hyper-parameter holds them

    def __init__(
        self, num_classes: int, label_smoothing: float, mixup: float, cutmix: float, class_weights: ClassWeights = None
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        transforms = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        with torch.device("cpu"):  # they read values, which a network that is built for its shapes does not have
            mixes = [transform(alpha=alpha, num_classes=num_classes) for transform, alpha in transforms if alpha]
        self.mixes = v2.RandomChoice(mixes) if mixes else None
        weights = None if class_weights is None else torch.ones(num_classes)
        self.register_buffer("weights", weights, persistent=False)
        if class_weights != "balanced":
            self.weigh(class_weights)

    def weigh(self, class_weights: ClassWeights) -> None:
        """Multiply the loss of each class by its weight from now on."""
        if class_weights == "balanced":
            raise InputError("class_weights balanced needs a CIFAR10DataModule: give one number for each class")
        if class_weights is not None and self.weights is not None:
            self.weights.copy_(torch.tensor(class_weights))

    def mix(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed pixels (B, C, H, W) and targets (B, K), or the pixels and labels (B,) if nothing is mixed."""
        if self.mixes is None:
            return pixels, labels
        mixed: tuple[Tensor, Tensor] = self.mixes(pixels, labels)
        return mixed

    def sum_losses(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Sum the cross-entropies of the networks' logits, so that each network learns as if trained separately.

        A weighted sum is divided by the number of images, not by their weights as in torch: the loss of an image does
        not depend on its batch, nor on the shard of a process.
        """
        if other := next((one for one in logits if not isinstance(one, Tensor)), None):
            raise InputError(f"network returns a {type(other).__name__} in training: it must return logits then too")
        reduction = "mean" if self.weights is None else "sum"
        loss = partial(F.cross_entropy, weight=self.weights, label_smoothing=self.label_smoothing, reduction=reduction)
        total = torch.stack([loss(one, targets) for one in logits]).sum()
        return total if self.weights is None else total / len(targets)


def choose_classes(labels: Tensor) -> Tensor:
    """Return the class (B,) of each label; the likeliest one of soft labels (B, K)."""
    return labels.argmax(1) if labels.ndim > 1 else labels


def balance_classes(labels: Tensor, num_classes: int) -> list[float]:
    """Return weights in inverse proportion to the classes' numbers of images, whose mean over the images is 1.

    A class without images gets the weight 1.
    """
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    present = sum(count > 0 for count in counts)
    return [len(labels) / (present * count) if count else 1.0 for count in counts]
