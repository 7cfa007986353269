"""Settings that a checkpoint or weights file holds."""

import copy
import json
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.run.finetuning import pick_network
from lightning_cifar.run.weights import check_network, find_checkpoint, get_square, read_model
from lightning_cifar.train.classifier import ImageClassifier

MOST_NAMES = 1000  # of classes in settings: parsing takes time by their square. The data has them, and the checkpoint


def checkpoint_config(file: Path) -> dict[str, dict[str, Any]]:
    """Return the arguments of model and data that a checkpoint or weights file was trained with, as JSON values."""
    file = find_checkpoint(file)
    return copy.deepcopy(read_stored_config(file, file.stat().st_mtime_ns))


@lru_cache(maxsize=1)  # a command reads it several times; a replaced file has another time
def read_stored_config(file: Path, modified: int) -> dict[str, dict[str, Any]]:
    stored = read_model(file)
    try:
        # Only the user names sources and directories. The others are of 0.1.0, where they changed only the training.
        removed = {"url", "archive", "root", "labels", "small_epochs", "small_size"}
        data = {name: value for name, value in stored.data.items() if name not in removed}
        config: dict[str, dict[str, Any]] = json.loads(json.dumps({"model": stored.hyper_parameters, "data": data}))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no checkpoint of this package ({error})") from error
    known = {*signature(ImageClassifier).parameters, *signature(FiveBlockNet).parameters}
    if unknown := sorted(set(config["model"]) - known):
        raise InputError(f"{file} is no checkpoint of this package: unknown parameter {unknown[0]!r}")
    check_network(stored)
    if not {*config["data"]} <= {*signature(CIFAR10DataModule).parameters}:
        config["data"] = {}  # of another DataModule
    return complete_config(config)


def complete_config(config: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give the data what the model expects of it; leave out very many names of classes."""
    model, square = config["model"], get_square(config["model"])
    for name, value in (("image_size", square.side), ("non_square", square.rule)):
        model[name] = config["data"][name] = value
    if len(model.get("class_names") or ()) > MOST_NAMES:
        model["class_names"] = None
    config["data"]["classes"] = model.get("class_names")
    return config


def read_network_config(checkpoint: str) -> dict[str, dict[str, Any]]:
    """Return the settings of a trained model that ``--init_from`` takes over, as JSON values: its network and size."""
    config = checkpoint_config(find_checkpoint(checkpoint, "--init_from"))
    sizes = {name: config["data"][name] for name in ("image_size", "non_square")}
    return {
        "model": {name: value for name, value in pick_network(config["model"]).items() if name not in sizes},
        "data": sizes,
    }
