"""Valid ranges of the hyper-parameters of `ImageClassifier`; `FiveBlockNet` checks those of the network."""

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from inspect import signature
from typing import Any

from lightning_cifar.data.arguments import LARGEST
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.square import NonSquare
from lightning_cifar.errors import InputError, check_choice, check_flag, check_list, check_name, check_range, list_some
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.train.objective import balance_classes
from lightning_cifar.train.optim import find_optimizer
from lightning_cifar.train.schedule import Schedule
from lightning_cifar.train.tta import Tta

RANGES = {
    "(0, inf)": ("learning_rate", "gate_rate", "norm_rate", "head_rate"),
    "[0, inf)": ("weight_decay", "mixup", "cutmix"),
    "[1, inf)": ("members",),
    f"[1, {LARGEST}]": ("image_size",),
    "[0, 1)": ("momentum", "label_smoothing"),
    "[0, 1]": ("warmup",),
}
OPTIONAL = ("gate_rate", "norm_rate", "head_rate", "image_size", "warmup")  # None: another value, or none


def check_hyperparameters(values: Mapping[str, Any], five_block: Collection[str] = ()) -> None:
    """Raise `InputError` for the first value that is not allowed, or an unknown name in ``five_block``."""
    known = {*values} - {*five_block} | {*signature(FiveBlockNet).parameters}
    for name in five_block:
        check_name(name, known, "argument", "those of ImageClassifier and of FiveBlockNet")
    for name, choices in (("schedule", Schedule), ("tta", Tta)):
        check_choice(name, values[name], choices)
    if values["non_square"] is not None:
        check_choice("non_square", values["non_square"], NonSquare)
    for name in ("network_args", "optimizer_args"):
        if not isinstance(values[name], Mapping | None):
            raise InputError(f"{name} must be a mapping or null, got {values[name]!r}")
    for name in ("class_names", "mean", "std"):
        check_list(name, values[name] or [])
    for interval, names in RANGES.items():
        for name in names:
            if values[name] is not None or name not in OPTIONAL:
                check_range(name, values[name], interval, whole=interval[1] == "1")  # intervals from 1 hold counts
    find_optimizer(values["optimizer"])
    check_flag("replay", values["replay"], "auto")
    check_flag("compile", values["compile"])
    names, classes = values["class_names"], values["num_classes"]
    if names is not None and (len(names) != classes or not {*map(type, names)} <= {str}):
        given = list_some(names)
        raise InputError(f"class_names must have {classes} names (num_classes), got {given}; null: the data's")
    if (weights := values["class_weights"]) not in (None, "balanced"):
        if not isinstance(weights, list | tuple) or len(weights) != classes:
            raise InputError(f"class_weights must be balanced or {classes} numbers (num_classes), got {weights}")
        for weight in weights:
            check_range("class_weights", weight, "(0, 1e9]")


def adopt_checkpoint(values: MutableMapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Take class names, size, rule and normalisation from a checkpoint, which its weights need."""
    stored = checkpoint.get("hyper_parameters", {})
    names = ("class_names", "image_size", "non_square", "mean", "std")
    values.update({name: stored[name] for name in names if stored.get(name) is not None})


def adopt_data(values: MutableMapping[str, Any], data: CIFAR10DataModule) -> None:
    """Take class names, size, rule and what the model lacks from the data; `InputError` if the model has others."""
    names, known = list(data.dataset.class_names), values["class_names"]
    remedy = "to train on these, start from its weights by fine_tune or --init_from"
    if len(names) != values["num_classes"]:
        raise InputError(f"the model has {values['num_classes']} classes, the data {len(names)}; {remedy}")
    if known is not None and list(known) != names:
        first = next(index for index, pair in enumerate(zip(known, names, strict=True)) if pair[0] != pair[1])
        own, other = (list_some(ones[first if len(ones) > 10 else 0 :]) for ones in (list(known), names))
        raise InputError(f"the model has the classes {own}; the data has {other}; {remedy}")
    values["class_names"] = names
    if values["class_weights"] == "balanced":
        values["class_weights"] = balance_classes(data.train.labels, len(names))
    for name in ("image_size", "non_square"):
        asked = data.hparams[name]
        if values[name] not in (None, asked):
            raise InputError(f"{name} {asked}: the model takes {values[name]}; set it to that")
        values[name] = asked
    set_normalisation(values, data.mean, data.std)


def set_normalisation(values: MutableMapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> None:
    """Set mean and standard deviation of each channel, unless there are some."""
    values.update(mean=list(values["mean"] or mean), std=list(values["std"] or std))
