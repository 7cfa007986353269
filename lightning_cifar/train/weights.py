"""Weights to take away: a network and what is known of it, in one safetensors file, which cannot hold code."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError, reason
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.options import PRETRAINED_NAME, WEIGHTS
from lightning_cifar.train.checkpoint import load_checkpoint
from lightning_cifar.train.classifier import ImageClassifier

PRETRAINED = Path(__file__).parents[1] / "pretrained.safetensors"


def save_weights(model: ImageClassifier, file: Path, held_out: str | None, half: bool = False, **known: Any) -> None:
    """Writes the network's weights.

    Args:
        model: trained.
        file: to write.
        held_out: ``val`` or ``test``, as it was trained: whether the validation images were kept back; None: not known.
        half: in half precision, but for what has one dimension, batch norm above all.
        known: further plain values for whoever opens it: recipe, data, accuracy.
    """
    tensors = {
        name: (value.half() if half and value.ndim > 1 else value).contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {
        "hyper_parameters": json.dumps(dict(model.hparams)),
        "known": json.dumps({"held_out": held_out, **known}),
    }
    save_file(tensors, file, metadata)


def read_weights(file: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Hyper-parameters, what is known, and the tensors.

    Raises:
        InputError: the file is no such one.
    """
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no mapping
        return json.loads(metadata["hyper_parameters"]), json.loads(metadata["known"]), tensors
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{file} is damaged or holds no weights of this package ({error})") from error


def described(known: dict[str, Any]) -> str:
    """What is known of weights, in one line: ``recipe fast94, data CIFAR-10 (JPEG), seed 0, test accuracy 89.38 %``."""
    words = [f"{name} {known[name]}" for name in ("recipe", "data", "seed") if name in known]
    shares = {"accuracy_without_tta": "test accuracy", "accuracy": "with test-time augmentation"}
    words += [f"{name} {known[key]:.2%}" for key, name in shares.items() if key in known]
    return ", ".join(words) or "nothing is said of them"


def load_pretrained(file: Path | str = PRETRAINED) -> ImageClassifier:
    """A trained classifier of uint8 images (B, 3, H, W), in evaluation mode; without ``file`` the one in this package.

    Raises:
        InputError: the file is damaged or none of `save_weights`.
    """
    hyper_parameters, _, tensors = read_weights(Path(file))
    return restored(Path(file), hyper_parameters, tensors)


def load_model(file: Path) -> ImageClassifier:
    """The same from weights or from a checkpoint of training; no code runs that either may hold.

    Raises:
        InputError: it is neither, or damaged.
    """
    if file.suffix == WEIGHTS:
        return load_pretrained(file)
    checkpoint = load_checkpoint(file)
    return restored(file, checkpoint.get("hyper_parameters", {}), checkpoint.get("state_dict", {}))


def model_named(ckpt_path: str, device: str) -> ImageClassifier:
    """The model that ``--ckpt_path`` and ``--device`` name, in evaluation mode, where it is to compute.

    Args:
        ckpt_path: a file of `load_model`, or ``pretrained``.
        device: as torch calls it; ``auto``: a GPU if there is one.

    Raises:
        InputError: there is no such file, or no such device, or the file is damaged.
    """
    model = load_model(file_named(ckpt_path))
    try:
        return model.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts that it has it
        raise InputError(f"--device {device}: {reason(error)}") from error


def file_named(ckpt_path: str) -> Path:
    """What ``--ckpt_path`` names: a file, or ``pretrained``.

    Raises:
        InputError: there is no such file.
    """
    file = PRETRAINED if ckpt_path == PRETRAINED_NAME else Path(ckpt_path)
    if not file.is_file():
        raise InputError(f"--ckpt_path {ckpt_path}: no such file")
    return file


def class_names(model: ImageClassifier) -> list[str]:
    """Those that it was trained on; ``class 0`` ... where they had none."""
    return list(model.hparams["class_names"] or (f"class {index}" for index in range(model.hparams["num_classes"])))


def checkpoint_config(file: Path) -> dict[str, dict[str, Any]]:
    """The arguments of model and data that a checkpoint was trained with, as plain JSON values."""
    if not file.is_file():
        raise InputError(f"--ckpt_path {file}: no such file")
    if file.suffix == WEIGHTS:
        hyper_parameters, facts, _ = read_weights(file)
        return {"model": hyper_parameters, "data": {"held_out": facts["held_out"]} if facts["held_out"] else {}}
    checkpoint = load_checkpoint(file)
    try:
        model, _ = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        data = checkpoint.get("datamodule_hyper_parameters", {})
        config: dict[str, dict[str, Any]] = json.loads(json.dumps({"model": model, "data": data}))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"--ckpt_path {file} is no checkpoint of this package ({error})") from error
    known = {*signature(ImageClassifier).parameters, *signature(FiveBlockNet).parameters}
    if unknown := sorted(set(config["model"]) - known):
        raise InputError(f"--ckpt_path {file} is no checkpoint of this package: it has a parameter {unknown[0]!r}")
    if not {*config["data"]} <= {*signature(CIFAR10DataModule).parameters}:
        config["data"] = {}  # of another DataModule
    if (root := config["data"].get("root")) and not Path(root).exists():
        del config["data"]["root"]  # the data was moved since: LIGHTNING_CIFAR_DATA or --data.root say where
    return config


def restored(file: Path, hyper_parameters: dict[str, Any], tensors: dict[str, Tensor]) -> ImageClassifier:
    try:
        model = ImageClassifier(**hyper_parameters)
        model.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:  # parameters that there are not; tensors of another network
        raise InputError(f"{file} holds no model of this package ({reason(error)})") from error
    return model.eval()
