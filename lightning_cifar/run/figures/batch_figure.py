"""``batch.png``: the first training batch as it was augmented, with its labels."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_cifar.files import write_whole
from lightning_cifar.run.figures.image_sheet import draw_sheet
from lightning_cifar.run.records.metrics_csv import find_csv_logger
from lightning_cifar.train.classifier import ImageClassifier

BATCH = "batch.png"
IMAGES = 40


class BatchFigure(Callback):
    """Draw up to 40 images of the first training batch into ``batch.png``, next to ``metrics.csv``.

    They are what the network gets, before normalisation, MixUp and CutMix. Drawing takes about 30 ms.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx or trainer.global_step or not trainer.is_global_zero or not isinstance(pl_module, ImageClassifier):
            return
        logger = find_csv_logger(trainer)
        if logger is not None:
            images, labels = (part[:IMAGES].cpu() for part in batch)
            names = pl_module.hparams["class_names"] or range(pl_module.hparams["num_classes"])
            write_whole(Path(logger.log_dir) / BATCH, draw_batch(images, [str(names[label]) for label in labels]))


def draw_batch(images: Tensor, names: list[str]) -> bytes:
    """Return a PNG of uint8 images (B, 3, H, W), or floats in [0, 1], each with its name below."""
    if images.is_floating_point():
        images = images.mul(255).clamp(0, 255).byte()
    return draw_sheet(images.permute(0, 2, 3, 1).numpy(), [[name] for name in names])
