"""Accuracy under common corruptions, generated here at five severities.

They are ours: in the spirit of CIFAR-10-C (arXiv 1903.12261), and not its files, which `cifar10_c` reads. Images are
uint8 (B, C, H, W); a corruption takes them and its strength, and returns the same.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

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
from lightning_cifar.errors import InputError
from lightning_cifar.train.classifier import ImageClassifier

SEVERITIES, BATCH = 5, 1000
SEED = 0  # of the noise: every model sees the same


def noise(images: Tensor, sigma: float) -> Tensor:
    """Gaussian, of standard deviation ``sigma`` in grey levels."""
    generator = torch.Generator().manual_seed(SEED)
    return to_bytes(images + sigma * torch.randn(images.shape, generator=generator))


def blur(images: Tensor, sigma: float) -> Tensor:
    """By a Gaussian of standard deviation ``sigma`` in pixels."""
    return TF.gaussian_blur(images, kernel_size=[9, 9], sigma=[sigma, sigma])


def contrast(images: Tensor, factor: float) -> Tensor:
    """Differences from the image's mean shrink to ``factor``."""
    return TF.adjust_contrast(images, factor)


def brightness(images: Tensor, levels: float) -> Tensor:
    """``levels`` grey levels brighter."""
    return to_bytes(images.float() + levels)


def jpeg(images: Tensor, quality: float) -> Tensor:
    """Compressed at ``quality`` of 1 to 100, and decompressed."""
    result = []
    for pixels in images.permute(0, 2, 3, 1).numpy():
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
        result.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(result)).permute(0, 3, 1, 2)


def pixelation(images: Tensor, side: float) -> Tensor:
    """Every square of ``side`` pixels becomes its mean; squares at the right and the bottom are cut off."""
    height, width = images.shape[-2:]
    means = F.avg_pool2d(images.float(), int(side), ceil_mode=True)
    blown = means.repeat_interleave(int(side), 2).repeat_interleave(int(side), 3)
    return to_bytes(blown[..., :height, :width])


def to_bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise": (noise, (2, 4, 6, 9, 13)),
    "blur": (blur, (0.4, 0.6, 0.8, 1.0, 1.3)),
    "contrast": (contrast, (0.8, 0.6, 0.45, 0.3, 0.15)),
    "brightness": (brightness, (15, 30, 45, 60, 80)),
    "jpeg": (jpeg, (80, 60, 40, 25, 15)),
    "pixelation": (pixelation, (2, 3, 4, 5, 6)),
}


def corrupted(images: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """Each corruption's name and the images at its five severities."""
    for name, (corrupt, strengths) in CORRUPTIONS.items():
        yield name, [corrupt(images, strength) for strength in strengths]


def cifar10_c(folder: Path, images: int) -> Iterator[tuple[str, list[Tensor]]]:
    """The same of CIFAR-10-C: a file for each corruption, five times the test images, by severity.

    Raises:
        InputError: a file is of another shape.
    """
    for file in sorted(folder.glob("*.npy")):
        if file.name != "labels.npy":
            try:
                stored = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(f"{file} is no array of images") from error
            if stored.shape != (SEVERITIES * images, 32, 32, 3) or stored.dtype != np.uint8:
                raise InputError(f"{file} must hold uint8 {(SEVERITIES * images, 32, 32, 3)}, got {stored.shape}")
            parts = np.split(stored, SEVERITIES)
            yield file.stem, [torch.from_numpy(np.array(part)).permute(0, 3, 1, 2) for part in parts]


def under_corruptions(model: ImageClassifier, data: CIFAR10DataModule, trainer: Trainer) -> dict[str, list[float]]:
    """Accuracy on the test images at each severity of each corruption, without test-time augmentation; prints rows.

    The images are in memory. CIFAR-10-C is tried too where it lies, as ``CIFAR-10-C/*.npy`` in the data directory of
    CIFAR-10.
    """
    test = data.test
    assert isinstance(test, ImageSet)
    named = corrupted(test.images)
    if data.hparams["dataset"] == "cifar10":
        stored = cifar10_c(data.root / "CIFAR-10-C", len(test))
        named = chain(named, ((f"CIFAR-10-C {name}", images) for name, images in stored))
    accuracies: dict[str, list[float]] = {}
    tta, model.hparams["tta"] = model.hparams["tta"], "none"
    for name, severities in named:
        accuracies[name] = []
        for images in severities:
            batches: Any = trainer.predict(model, BatchLoader(ImageSet(images, test.labels), BATCH))
            accuracies[name].append(float((torch.cat(batches).argmax(1) == test.labels).double().mean()))
        print(f"{name:<12}" + "".join(f"{accuracy:>8.2%}" for accuracy in accuracies[name]), flush=True)
    model.hparams["tta"] = tta
    return accuracies
