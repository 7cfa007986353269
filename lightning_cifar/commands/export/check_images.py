"""Images to check an exported model on, and to calibrate int8 with."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_cifar.data.dataset import Dataset, select_evenly
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError
from lightning_cifar.evaluate.listing import read_file
from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
from lightning_cifar.run.weights import get_square
from lightning_cifar.sources.cifar import SETS

CHECKED, CALIBRATING, RANDOM = 1000, 500, 100  # images


def load_images(
    paths: list[str], checkpoint: Path, hyper_parameters: Mapping[str, Any], places: dict[str, str | None]
) -> tuple[str, Tensor, Tensor | None]:
    """Return a description, uint8 images (N, 3, side, side) to check on, and images to calibrate with.

    ``paths``, evenly sampled, serve for both. Without any, the checkpoint's own test and training images are used if
    they are on this machine; otherwise random images, with None to calibrate with. ``places`` are arguments of the data
    module that say where they lie.
    """
    square = get_square(hyper_parameters)
    if paths:
        chosen = []
        for index in select_evenly(len(paths), CHECKED):
            found = read_file(paths[index], square)
            if isinstance(found, str):
                raise InputError(f"--images {paths[index]} cannot be read ({found}): leave it out")
            chosen.append(found)
        images = torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2)
        return "images of --images", images, images
    config = checkpoint_config(checkpoint)
    if config["data"].get("dataset") == "digits" and places["root"]:
        print("note: --data.root has no effect: the dataset is in scikit-learn")
    if (data := find_data(config["data"] | places, hyper_parameters["class_names"])) is None:
        if named := [f"--data.{name} {place}" for name, place in places.items() if place]:
            raise InputError(f"{named[0]} has no data of the model's classes: name another, or images by --images")
        random = torch.randint(256, (RANDOM, 3, square.side, square.side), dtype=torch.uint8)
        return "random images (the model's data was not found: name images by --images)", random, None
    calibration = data.train.sample(CALIBRATING).images if len(data.train) else None
    return "test images", data.test.sample(CHECKED).images, calibration


def find_data(options: dict[str, Any], class_names: list[str] | None) -> Dataset | None:
    """Return the data that the model was trained on if it is here with the same classes; downloads nothing."""
    data = CIFAR10DataModule(**options)
    archive = SETS.get(data.hparams["dataset"])
    if archive and not (data.root / archive.base_folder).is_dir():
        return None
    lines = StringIO()
    try:
        with redirect_stdout(lines):
            found = data.read()
    except InputError:
        if options["root"] or options["labels"]:
            raise
        return None
    if [*found.class_names] != class_names:
        return None  # without a line about a directory that nobody named
    print(lines.getvalue(), end="", flush=True)
    return found
