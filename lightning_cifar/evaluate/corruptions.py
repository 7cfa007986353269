"""Accuracy under common corruptions, generated here at five severities.

They are in the spirit of CIFAR-10-C (arXiv 1903.12261) but not its files, which `read_cifar10_c` reads. A corruption
takes uint8 images (B, C, H, W) and a strength, and returns images of the same shape and type.
"""

from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.data.loader import BatchLoader
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.square import SIZE
from lightning_cifar.errors import InputError
from lightning_cifar.run.records.stored_files import check_file
from lightning_cifar.train.classifier import ImageClassifier

SEVERITIES, BATCH = 5, 1000
SEED = 0  # for the noise: every model sees the same images


def add_noise(images: Tensor, sigma: float) -> Tensor:
    """Add Gaussian noise with a standard deviation of ``sigma`` grey levels."""
    generator = torch.Generator().manual_seed(SEED)
    return map_parts(lambda part: to_bytes(part + sigma * torch.randn(part.shape, generator=generator)), images)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian with a standard deviation of ``sigma`` pixels."""
    return map_parts(lambda part: TF.gaussian_blur(part, kernel_size=[9, 9], sigma=[sigma, sigma]), images)


def reduce_contrast(images: Tensor, factor: float) -> Tensor:
    """Scale differences from the image's mean grey level by ``factor``."""
    return map_parts(lambda part: TF.adjust_contrast(part, factor), images)


def brighten(images: Tensor, levels: float) -> Tensor:
    """Add ``levels`` grey levels."""
    return map_parts(lambda part: to_bytes(part.float() + levels), images)


def compress_jpeg(images: Tensor, quality: float) -> Tensor:
    """Compress at a ``quality`` in [1, 100] and decompress."""
    result = torch.empty_like(images)
    for image, pixels in zip(result, images.permute(0, 2, 3, 1).numpy(), strict=True):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
        image.copy_(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return result


def pixelate(images: Tensor, side: float) -> Tensor:
    """Replace squares of ``side`` pixels by their mean; squares at the right and bottom edges are smaller."""
    height, width = images.shape[-2:]

    def average(part: Tensor) -> Tensor:
        means = F.avg_pool2d(part.float(), int(side), ceil_mode=True)
        enlarged = means.repeat_interleave(int(side), 2).repeat_interleave(int(side), 3)
        return to_bytes(enlarged[..., :height, :width])

    return map_parts(average, images)


def map_parts(corrupt: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return ``corrupt`` of the images, a part at a time: the floats of all would take many times their memory."""
    result = torch.empty_like(images)
    for part, changed in zip(images.split(BATCH), result.split(BATCH), strict=True):
        changed.copy_(corrupt(part))
    return result


def to_bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise": (add_noise, (2, 4, 6, 9, 13)),
    "blur": (blur, (0.4, 0.6, 0.8, 1.0, 1.3)),
    "contrast": (reduce_contrast, (0.8, 0.6, 0.45, 0.3, 0.15)),
    "brightness": (brighten, (15, 30, 45, 60, 80)),
    "jpeg": (compress_jpeg, (80, 60, 40, 25, 15)),
    "pixelation": (pixelate, (2, 3, 4, 5, 6)),
}


def corrupt_images(images: Tensor) -> Iterator[tuple[str, Iterator[Tensor]]]:
    """Yield each corruption's name and the images at its five severities, which are made one at a time."""
    for name, (corrupt, strengths) in CORRUPTIONS.items():
        yield name, map(partial(corrupt, images), strengths)


def read_cifar10_c(folder: Path, images: int, size: int = SIZE) -> Iterator[tuple[str, Iterator[Tensor]]]:
    """Yield each corruption's name and images from CIFAR-10-C, enlarged to ``size`` pixels, one severity at a time.

    The files ``<corruption>.npy`` hold the test images, as many as ``images``, at each of the five severities.
    """
    for file in sorted(folder.glob("*.npy")):
        if file.name != "labels.npy":
            try:
                check_file(file, 1 << 30)
                stored = np.load(file, mmap_mode="r", allow_pickle=False)
                shape, kind = stored.shape, stored.dtype
            except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
                raise InputError(f"{file} is not an array of images: download it again or remove it") from error
            if shape != (wanted := (SEVERITIES * images, SIZE, SIZE, 3)) or kind != np.uint8:
                raise InputError(f"{file} must hold uint8 {wanted}, got {kind} {shape}")
            parts = np.split(stored, SEVERITIES)
            images_at = (torch.from_numpy(np.array(part)).permute(0, 3, 1, 2) for part in parts)
            yield file.stem, (TF.resize(one, [size, size]) for one in images_at)


def evaluate_corruptions(model: ImageClassifier, data: CIFAR10DataModule, trainer: Trainer) -> dict[str, list[float]]:
    """Return the test accuracy at each severity of each corruption, without test-time augmentation; prints a row each.

    The test images must be in memory. For CIFAR-10, ``CIFAR-10-C/*.npy`` in the data directory is evaluated too.
    """
    test = data.test
    assert isinstance(test, ImageSet)
    corruptions = corrupt_images(test.images)
    if data.hparams["dataset"] == "cifar10":
        stored = read_cifar10_c(data.root / "CIFAR-10-C", len(test), data.hparams["image_size"])
        corruptions = chain(corruptions, ((f"CIFAR-10-C {name}", images) for name, images in stored))
    accuracies: dict[str, list[float]] = {}

    def measure(images: Tensor) -> float:
        batches: Any = trainer.predict(model, BatchLoader(ImageSet(images, test.labels), BATCH))
        return float((torch.cat(batches).argmax(1) == test.labels).double().mean())

    tta, model.hparams["tta"] = model.hparams["tta"], "none"
    try:
        for name, severities in corruptions:
            accuracies[name] = [*map(measure, severities)]  # each is freed before the next is made
            print(f"{name:<12}" + "".join(f"{accuracy:>8.2%}" for accuracy in accuracies[name]), flush=True)
    finally:
        model.hparams["tta"] = tta
    return accuracies
