"""ImageClassifier: `FiveBlockNet` under Lightning, with cross-entropy, Adam and the metrics of every stage."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError
from lightning_cifar.model.network import FiveBlockNet

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


class ImageClassifier(LightningModule):
    """Images in, logits out. It knows its architecture, classes and normalisation: a checkpoint needs nothing else.

    Args:
        num_classes: number of classes.
        learning_rate: Adam's step size, above 0.
        weight_decay: Adam's L2 penalty.
        class_names: one name per class; default: those of the data it is trained on.
        mean: per channel, of pixels in [0, 1]; replaced by those of the data it is trained on.
        std: as ``mean``.
        network: every other argument of `FiveBlockNet`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int = 10,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
        **network: Any,
    ) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, got {learning_rate}")
        self.save_hyperparameters()
        # oneDNN's and cuDNN's fast convolutions want channels-last weights and images.
        self.network = FiveBlockNet(num_classes, **network).to(memory_format=torch.channels_last)
        # Not in the state dict: they are hyper-parameters, from which __init__ makes them again.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).clamp(min=1e-6), persistent=False)
        # Without validate_args, which would read every batch back from the device.
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.held_out_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.test_confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)

    def setup(self, stage: str) -> None:
        """Before training, takes class names and normalisation from a `CIFAR10DataModule`."""
        data = self.datamodule
        if stage != "fit" or data is None:
            return
        names = data.dataset.class_names
        if len(names) != self.hparams["num_classes"]:
            raise InputError(f"num_classes is {self.hparams['num_classes']}, but the data has {len(names)} classes")
        self.hparams.update(class_names=list(names), mean=data.mean, std=data.std)
        self.mean.copy_(torch.tensor(data.mean))
        self.std.copy_(torch.tensor(data.std).clamp(min=1e-6))  # 0 where a channel is constant

    @property
    def datamodule(self) -> CIFAR10DataModule | None:
        found = getattr(self.trainer, "datamodule", None)
        return found if isinstance(found, CIFAR10DataModule) else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W): uint8, or floats in [0, 1]; H and W at least 32."""
        pixels = images if images.is_floating_point() else images / 255
        pixels = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        return self.network(pixels.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(labels))
        self.log("train/accuracy", self.train_accuracy, on_step=True, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.held_out_accuracy.update(logits, labels)
        # Named for what it is: the recipe `report` watches the test set, as the report did.
        name = self.datamodule.hparams["held_out"] if self.datamodule else "val"
        self.log(f"{name}/loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.log(f"{name}/accuracy", self.held_out_accuracy, batch_size=len(labels))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.test_confusion.update(logits, labels)
        self.log("test/loss", F.cross_entropy(logits, labels), batch_size=len(labels))

    def on_test_epoch_end(self) -> None:
        confusion = self.test_confusion.compute()  # (true class, predicted class)
        self.log("test/accuracy", confusion.trace() / confusion.sum())

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Probabilities (B, num_classes), float32."""
        return self(batch[0]).float().softmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            self.parameters(), lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
