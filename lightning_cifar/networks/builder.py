"""Networks other than `FiveBlockNet`, by name: published ones and the user's own. They must map images to logits."""

import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_cifar.errors import InputError, reason
from lightning_cifar.imports import import_function
from lightning_cifar.networks.published import TIMM, find_published
from lightning_cifar.networks.small_images import probe
from lightning_cifar.values import to_plain

WEIGHTS = ("weights", "pretrained", "pretrained_cfg", "checkpoint_path")


def build_other(name: str | Callable[..., nn.Module], num_classes: int, args: dict[str, Any], size: int) -> nn.Module:
    """Build a network other than ``five_block``: see `lightning_cifar.model.named.build_network`."""
    if taken := {"num_classes", *WEIGHTS} & {*args}:
        raise InputError(f"network_args must not have {min(taken)}: classes come from the data, and weights are new")
    if isinstance(name, nn.Module):
        raise InputError(f"network must be a function that returns a network, got a {type(name).__name__}")
    build = find_builder(name, size)
    for argument, value in args.items():
        if not is_plain(value) and not hasattr(value, "tolist"):  # arrays become lists
            remedy = "pass network_args to load_from_checkpoint again"
            warnings.warn(f"checkpoints hold network_args {argument} as {to_plain(value)!r}: {remedy}", stacklevel=2)
    try:
        network = build(num_classes=num_classes, **args)
        if not isinstance(network, nn.Module):
            raise InputError(f"it returned {type(network).__name__}, not a torch.nn.Module")
        choose_layout(network, num_classes, size)
    except Exception as error:  # code of the user may fail in any way
        with_args = f" with {args}" if args else ""
        remedy = ": leave its weights float32" if re.search("[Hh]alf|[Dd]ouble|BFloat16", str(error)) else ""
        raise InputError(f"network {name}{with_args}: {reason(error)}{remedy}") from error
    return network


def is_plain(value: Any) -> bool:
    """Return whether JSON can hold a value: it is no class, function or module, and contains none."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def is_custom(name: str | Callable[..., nn.Module]) -> bool:
    """Return whether this is a function of the user, whose network is taken as it is."""
    return not isinstance(name, str) or (":" in name and not name.startswith(TIMM))


def find_builder(name: str | Callable[..., nn.Module], size: int) -> Callable[..., nn.Module]:
    """Return the function that builds a network for images of ``size`` pixels; `InputError` if there is none."""
    if not isinstance(name, str):
        return name
    return import_function(name, "network") if is_custom(name) else find_published(name, size)


def choose_layout(network: nn.Module, num_classes: int, size: int) -> None:
    """Store filters channels last, for the fast convolutions of oneDNN and cuDNN, if the network works with that.

    One that flattens feature maps by ``view`` stays contiguous, and gets contiguous images.
    """
    check_logits(network, num_classes, size)
    network.to(memory_format=torch.channels_last)
    try:
        probe(network, 2, size, torch.channels_last)
    except RuntimeError as error:
        if "view size" not in str(error):
            raise
        if isinstance(network, torch.jit.ScriptModule):  # takes no hooks
            raise InputError("its TorchScript flattens feature maps by view: use flatten or reshape") from error
        network.to(memory_format=torch.contiguous_format).register_forward_pre_hook(make_contiguous)


def make_contiguous(network: nn.Module, images: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (images[0].contiguous(),)


def check_logits(network: nn.Module, num_classes: int, size: int) -> None:
    """Raise `InputError` unless the network maps two images, and one image, to logits."""
    for count, words in ((2, "two images"), (1, "one image")):
        output = probe(network, count, size)
        if not isinstance(output, torch.Tensor) or output.shape != (count, num_classes):
            found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise InputError(f"it returns {found} for {words}, not logits [{count}, {num_classes}]")
    if not output.is_meta and bool((output >= 0).all() and ((output.float().sum(1) - 1).abs() < 1e-5).all()):
        raise InputError("it returns probabilities, not logits: leave out its softmax, which the loss computes")
