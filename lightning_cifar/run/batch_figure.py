"""``batch.png``: the first training batch as it was augmented, with its labels."""

import io
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_cifar.files import write_whole
from lightning_cifar.run.metrics_csv import find_csv_logger
from lightning_cifar.train.classifier import ImageClassifier

BATCH = "batch.png"
COLUMNS, ROWS = 8, 5
TILE, MARGIN, LABEL = 96, 6, 16  # pixels


class BatchFigure(Callback):
    """Draw up to 40 images of the first training batch into ``batch.png``, next to ``metrics.csv``.

    They are what the network gets, before normalisation, MixUp and CutMix. Drawing takes about 30 ms.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx or trainer.global_step or not trainer.is_global_zero or not isinstance(pl_module, ImageClassifier):
            return
        logger = find_csv_logger(trainer)
        if logger is not None:
            images, labels = (part[: COLUMNS * ROWS].cpu() for part in batch)
            names = pl_module.hparams["class_names"] or range(pl_module.hparams["num_classes"])
            write_whole(Path(logger.log_dir) / BATCH, draw_batch(images, [str(names[label]) for label in labels]))


def draw_batch(images: Tensor, names: list[str]) -> bytes:
    """Return a PNG of uint8 images (B, 3, H, W), or floats in [0, 1], each with its name below."""
    if images.is_floating_point():
        images = images.mul(255).clamp(0, 255).byte()
    rows = -(-len(images) // COLUMNS)
    width, height = TILE + MARGIN, TILE + MARGIN + LABEL
    figure = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), "white")
    write, font = ImageDraw.Draw(figure), ImageFont.load_default(12)
    for number, (pixels, name) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), names, strict=True)):
        left, top = MARGIN + number % COLUMNS * width, MARGIN + number // COLUMNS * height
        figure.paste(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST), (left, top))
        short = name.encode("ascii", "replace").decode()[:15]
        write.text((left + TILE // 2, top + TILE + LABEL // 2), short, "black", font, anchor="mm")
    png = io.BytesIO()
    figure.save(png, "PNG", compress_level=1)
    return png.getvalue()
