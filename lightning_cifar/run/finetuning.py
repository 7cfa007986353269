"""Fine-tuning: training that starts from trained weights, with a new last layer if the classes differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_cifar.errors import InputError
from lightning_cifar.files import PRETRAINED_NAME
from lightning_cifar.run.settings.changes import differ
from lightning_cifar.run.weights import (
    NETWORK_OPTIONS,
    StoredModel,
    check_finite,
    check_network,
    describe_weights,
    find_building_device,
    find_checkpoint,
    read_model,
)
from lightning_cifar.train.classifier import ImageClassifier


def fine_tune(checkpoint: str | Path = PRETRAINED_NAME, num_classes: int = 10, **options: Any) -> ImageClassifier:
    """Return a classifier to train on, with the network and weights of a trained one.

    Args:
        checkpoint: ``pretrained``, the model in this package; a run directory, a checkpoint or a weights file.
        num_classes: number of classes of the new data, for which the model gets a new last layer.
        options: further arguments of `ImageClassifier`, such as ``learning_rate`` and ``freeze``.

    Raises:
        InputError: the file is damaged, or an option contradicts it.
    """
    stored = read_model(find_checkpoint(checkpoint, "checkpoint"))
    check_network(stored)
    network = pick_network(stored.hyper_parameters)
    for name in network.keys() & options.keys() - {"mean", "std"}:
        if differ(options[name], network[name]):
            raise InputError(f"{name} {options[name]}: the trained network has {network[name]}; leave it out")
    model = ImageClassifier(num_classes, **(network | options))
    start_from(model, stored)
    return model


def pick_network(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those hyper-parameters of a trained model that its weights need, without its classes and rates."""
    names = {*NETWORK_OPTIONS, "mean", "std"} - {"num_classes"}
    return {name: value for name, value in hyper_parameters.items() if name in names}


def start_from(model: ImageClassifier, stored: StoredModel) -> str:
    """Load a trained model's weights, and return a line about them; the last layer stays new if the classes differ.

    `InputError` if the file holds the weights of another network, or some that are NaN or infinite.
    """
    file, tensors = stored.file, stored.tensors
    check_finite(stored, model)
    names, own = model.hparams["class_names"], model.state_dict()
    same = names is not None and names == stored.hyper_parameters.get("class_names")
    new = set() if same else name_last_layers(model)
    loaded = {name: tensor for name, tensor in tensors.items() if name not in new}
    for name in sorted(({*own} | {*tensors}) - new):
        shapes = [describe_shape(one[name]) if name in one else "nothing" for one in (loaded, own)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{file} holds the weights of another network: {name} is {shapes[0]}, here {shapes[1]}")
    model.load_state_dict(own | loaded)
    last = "" if same else f"; the last layer is new, for {model.hparams['num_classes']} classes"
    return f"weights: {describe_weights(stored.facts) if stored.facts else file}{last}"


def name_last_layers(model: ImageClassifier) -> set[str]:
    """Return the names of the parameters whose shapes depend on the number of classes."""
    more = {"num_classes": model.hparams["num_classes"] + 1, "class_names": None, "class_weights": None}
    with find_building_device(model.hparams["network"]):
        other = ImageClassifier(**(dict(model.hparams) | more)).state_dict()
    return {name for name, one in model.state_dict().items() if describe_shape(one) != describe_shape(other[name])}


def describe_shape(value: Any) -> Any:
    """Return a tensor's shape; a network's extra state may be anything, and has its type's name."""
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__
