"""Data modules that are set up, and the batches that a Trainer gets from them."""

import torch
from lightning import LightningModule, Trainer

from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.data.module import CIFAR10DataModule


def make_module(*args: object, **options: object) -> CIFAR10DataModule:
    module = CIFAR10DataModule(*args, **options)
    module.prepare_data()
    module.setup()
    return module


def are_equal(one: ImageSet, other: ImageSet) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


class Recorder(LightningModule):
    """Module that records its batches and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.train_batches, self.other_batches = [], []

    def training_step(self, batch):
        self.train_batches.append(batch)
        return self.weight.square()

    def validation_step(self, batch):
        self.other_batches.append(batch)

    test_step = validation_step

    def predict_step(self, batch):
        self.other_batches.append(batch)
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def record_batches(trainer: Trainer, *args: object, **options: object) -> tuple[CIFAR10DataModule, Recorder]:
    module, recorder = CIFAR10DataModule(*args, **options), Recorder()
    trainer.fit(recorder, module)
    return module, recorder
