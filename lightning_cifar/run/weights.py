"""Weights: a network with its hyper-parameters and facts about it in one safetensors file, which cannot hold code."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from lightning_cifar.data.square import SQUARE, Square
from lightning_cifar.errors import InputError, check_range, reason
from lightning_cifar.files import PRETRAINED_NAME, WEIGHTS, write_whole
from lightning_cifar.model.named import FIVE_BLOCK
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.networks.builder import is_custom
from lightning_cifar.run.guards import list_infinite_buffers
from lightning_cifar.train.checkpoint import load_checkpoint
from lightning_cifar.train.classifier import ImageClassifier

EXPORTED = (".onnx", ".pt2")  # formats of `export` that hold no checkpoint
PRETRAINED = Path(__file__).parents[1] / "pretrained.safetensors"
SPLIT = ("val_size", "split_seed")  # arguments of the data that choose which images were not trained on
SHARES = {"accuracy_without_tta": "test accuracy", "accuracy": "with test-time augmentation"}
# Hyper-parameters on which the shapes of the weights depend.
SHAPING = ("network", "network_args", "members", "image_size", "non_square")
LEFT: ContextVar[list[int] | None] = ContextVar("LEFT", default=None)  # elements and parameters that may be built
NETWORK_OPTIONS = (*SHAPING, *signature(FiveBlockNet).parameters)


class StoredModel(NamedTuple):
    """Content of a checkpoint or a weights file."""

    file: Path
    hyper_parameters: dict[str, Any]  # arguments of the model
    data: dict[str, Any]  # arguments of the data module
    facts: dict[str, Any]  # known of the weights, such as recipe and accuracy; none of a training checkpoint
    tensors: dict[str, Tensor]
    steps: int  # of a training that can be continued; 0 of a weights file


def save_weights(model: ImageClassifier, file: Path, held_out: str | None, half: bool = False, **known: Any) -> None:
    """Write a trained model's weights and hyper-parameters, with plain values that are ``known``, such as accuracy.

    ``held_out`` is the data module's in training; None: unknown. A known ``temperature`` divides the logits before the
    softmax. ``half`` stores tensors of two and more dimensions in half precision; batch norm and biases stay in single.
    """
    tensors = {  # copies: layers may share weights, which the format does not know
        name: (value.half() if half and value.ndim > 1 else value).clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    metadata = {"hyper_parameters": dict(model.hparams), "known": {"held_out": held_out, **known}}
    write_whole(file, save(tensors, {name: json.dumps(values) for name, values in metadata.items()}))


def read_weights(file: Path) -> StoredModel:
    """Read a file written by `save_weights`; `InputError` if it is damaged or of another kind."""
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no mapping
        if missing := {"hyper_parameters", "known"} - {*metadata}:
            raise ValueError(f"without {min(missing)}, which export and save_weights write")
        hyper_parameters, known = (dict(json.loads(metadata[name])) for name in ("hyper_parameters", "known"))
        json.dumps([hyper_parameters, known], ensure_ascii=False).encode()  # refuses half of a surrogate pair
        check_range("temperature", known.get("temperature", 1.0), "(0, 1e9]")
        for name in SHARES.keys() & known.keys():
            check_range(name, known[name], "[0, 1]")
        data = {name: known[name] for name in ("held_out", "dataset", *SPLIT) if known.get(name)}
        return StoredModel(file, hyper_parameters, data, known, tensors, 0)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged or holds no weights of this package ({error})") from error


def describe_weights(known: dict[str, Any]) -> str:
    """Format the known facts in one line: ``recipe fast94, data CIFAR-10, seed 0, test accuracy 89.38 %``."""
    words = [f"{name} {known[name]}" for name in ("recipe", "data", "seed") if name in known]
    words += [f"{name} {known[key]:.2%}" for key, name in SHARES.items() if key in known]
    return ", ".join(words) or "no recipe, data or accuracy recorded"


def load_pretrained(file: Path | str = PRETRAINED_NAME) -> ImageClassifier:
    """Load a trained classifier of uint8 images (B, 3, H, W) in evaluation mode; no stored code runs.

    Args:
        file: ``pretrained``, the model in this package; a run directory, a checkpoint or a weights file.

    Raises:
        InputError: the file is missing, damaged or holds no model of this package.
    """
    file = find_checkpoint(file, "file")
    stored = read_model(file)
    check_network(stored)
    model = ImageClassifier(**stored.hyper_parameters)
    load_stored(model, stored)
    return model.eval()


def read_model(file: Path) -> StoredModel:
    """Read a checkpoint or a weights file; `InputError` if it is damaged or of another kind."""
    if file.suffix == WEIGHTS:
        return read_weights(file)
    checkpoint = load_checkpoint(file)
    for name in ("hyper_parameters", "state_dict"):
        if not isinstance(checkpoint.get(name), dict):
            raise InputError(f"{file} is no checkpoint of this package: it has no {name}")
    model, data = checkpoint["hyper_parameters"], checkpoint.get("datamodule_hyper_parameters", {})
    return StoredModel(file, model, data, {}, checkpoint["state_dict"], checkpoint.get("global_step", 0))


def check_network(stored: StoredModel) -> None:
    """Raise `InputError` unless a file's network has the file's tensors, before memory is allocated for the network."""
    file, hyper_parameters, tensors = stored.file, stored.hyper_parameters, stored.tensors
    try:
        json.dumps(hyper_parameters)  # plain values: a function would be called
        network = hyper_parameters.get("network", FIVE_BLOCK)
        with find_building_device(network), limit_parameters(file.stat().st_size, 2 * len(tensors)):
            model = ImageClassifier(**hyper_parameters)
        own = model.state_dict()
        # Compares names and shapes. Of a copy: torch notes in a state dict that it is assigned, type and all.
        model.load_state_dict(dict(tensors), assign=True)
        loaded = model.state_dict()  # the network may have renamed them
        pairs = [(loaded[name], one.is_complex()) for name, one in own.items() if isinstance(one, Tensor)]
        if any(one.layout != torch.strided or one.is_meta or one.is_complex() != wanted for one, wanted in pairs):
            raise ValueError("its tensors are sparse, complex or without values")
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError) and is_custom(network):
            raise  # it says how to trust the package
        raise InputError(f"{file} holds no model of this package ({reason(error)})") from error


def find_building_device(network: str) -> torch.device:
    """Return ``meta``, to build a network for its shapes without memory; ``cpu`` if the network reads values."""
    return torch.device("cpu" if is_custom(network) or network.startswith("regnet_") else "meta")


def count_parameter(module: nn.Module, name: str, parameter: Tensor | None) -> None:
    """Count a parameter that is registered while `limit_parameters` holds in this thread."""
    if (left := LEFT.get()) is None or parameter is None or is_lazy(parameter):
        return
    left[0], left[1] = left[0] - parameter.numel(), left[1] - 1
    if min(left) < 0:
        raise InputError("its hyper-parameters name a network larger than the file")


# For good: the hook holds in every thread, and adding or removing it would disturb those that build a network.
register_module_parameter_registration_hook(count_parameter)


@contextmanager
def limit_parameters(elements: int, count: int) -> Iterator[None]:
    """Refuse a network with more parameters, or more elements in them, while this thread builds it."""
    before = LEFT.set([elements, count])
    try:
        yield
    finally:
        LEFT.reset(before)


def check_finite(stored: StoredModel, model: ImageClassifier) -> None:
    """Raise `InputError` for weights that are NaN or infinite, but for buffers that are infinite in a new ``model``."""
    infinite = list_infinite_buffers(model)
    values = (one for name, one in stored.tensors.items() if name not in infinite and isinstance(one, Tensor))
    if not all(value.isfinite().all() for value in values):
        raise InputError(f"{stored.file} holds weights that are NaN or infinite: name an earlier checkpoint")


def load_stored(model: ImageClassifier, stored: StoredModel) -> None:
    """Load weights and temperature; `InputError` for weights that are NaN or infinite."""
    check_finite(stored, model)
    model.load_state_dict(stored.tensors)
    model.temperature = stored.facts.get("temperature", 1.0)


def find_checkpoint(ckpt_path: str | Path, option: str = "--ckpt_path") -> Path:
    """Return the file of an option: ``pretrained``, a file, or the best checkpoint of a run directory."""
    if not isinstance(ckpt_path, str | Path):
        raise InputError(f"{option} must be a path or {PRETRAINED_NAME}, got {type(ckpt_path).__name__}")
    name = str(ckpt_path)
    path = PRETRAINED if name == PRETRAINED_NAME else Path(name).expanduser()
    names = [f"{folder}{name}.ckpt" for name in ("best", "last") for folder in ("checkpoints/", "")]
    if (found := next(filter(Path.is_file, (path, *map(path.joinpath, names))), None)) is None:
        why = "not a file" if path.exists() else "no such file"
        if path.is_dir():
            runs = sorted(path.glob("*/checkpoints"))  # such as the seeds of repeat
            why = "it holds no checkpoints/best.ckpt: name a run directory of fit"
            why += f", such as {runs[-1].parent}" if runs else ""
        elif name in ("best", "last"):
            why = f"no such file: name a run directory, or its checkpoints/{name}.ckpt"
        raise InputError(f"{option} {name}: {why}")
    if found.suffix in EXPORTED:
        raise InputError(f"{option} {found} is an exported file: name the checkpoint, or export it as {WEIGHTS}")
    return found


def get_class_names(model: ImageClassifier) -> list[str]:
    """Return the class names of the training data; ``class 0`` and so on if there were none."""
    return list(model.hparams["class_names"] or (f"class {index}" for index in range(model.hparams["num_classes"])))


def get_square(hyper_parameters: Mapping[str, Any]) -> Square:
    """Return what a model expects every image to become; models of earlier versions take 32x32 pixels."""
    side, rule = hyper_parameters.get("image_size"), hyper_parameters.get("non_square")
    return Square(side or SQUARE.side, rule or SQUARE.rule)
