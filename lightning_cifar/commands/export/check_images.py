"""The images that an exported model is checked on, and those that int8 is calibrated by."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_cifar.data.cifar import SETS
from lightning_cifar.data.dataset import Dataset, select_evenly
from lightning_cifar.data.images import SIZE, read_image
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError
from lightning_cifar.train.weights import checkpoint_config

CHECKED, CALIBRATING, RANDOM = 1000, 500, 100  # images


def pictures(paths: list[str], checkpoint: Path) -> tuple[str, Tensor, Tensor | None]:
    """Words for them, uint8 images (N, 3, 32, 32) to check on, and such to calibrate by.

    Those of ``paths`` for both, evenly spaced over all; without any the test images of the checkpoint's data, and
    training images, where they lie on this machine; else random ones, by which nothing can be calibrated: None.

    Raises:
        InputError: one of ``paths`` cannot be read.
    """
    if paths:
        images = torch.from_numpy(np.stack([read(paths[index]) for index in select_evenly(len(paths), CHECKED)]))
        return "images of --images", images.permute(0, 3, 1, 2), images.permute(0, 3, 1, 2)
    config = checkpoint_config(checkpoint)
    if (data := own_data(config["data"], config["model"]["class_names"])) is None:
        random = torch.randint(256, (RANDOM, 3, SIZE, SIZE), dtype=torch.uint8)
        return "random images (the model's own are not found, --images names others)", random, None
    return "test images", data.test.sample(CHECKED).images, data.train.sample(CALIBRATING).images


def read(path: str) -> np.ndarray:
    try:
        return read_image(path)
    except Exception as error:  # each decoder fails in its own ways
        raise InputError(f"--images {path} cannot be read ({error})") from error


def own_data(options: dict[str, Any], class_names: list[str] | None) -> Dataset | None:
    """What the model was trained on, where it lies: it has the model's classes; nothing is downloaded."""
    data = CIFAR10DataModule(**options)
    archive = SETS.get(data.hparams["dataset"])
    if archive and not (data.root / archive.base_folder).is_dir():
        return None
    try:
        found = data.read()
    except InputError:
        return None
    return found if list(found.class_names) == class_names else None
