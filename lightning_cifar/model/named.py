"""Networks by name: `FiveBlockNet`, published ones and the user's own."""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from lightning_cifar.data.square import SIZE
from lightning_cifar.errors import InputError, reason
from lightning_cifar.imports import import_function
from lightning_cifar.model.mode import evaluating
from lightning_cifar.model.network import FiveBlockNet

FIVE_BLOCK = "five_block"
PUBLISHED = "lightning_cifar.networks.published"  # the module that knows other names, imported for them only
TIMM = "timm/"
WEIGHTS = ("weights", "pretrained", "pretrained_cfg", "checkpoint_path")


def build_network(
    name: str | Callable[..., nn.Module],
    num_classes: int,
    network_args: Mapping[str, Any] | None = None,
    size: int | None = None,
    **five_block: Any,
) -> nn.Module:
    """Build a network that maps images (B, 3, size, size) to logits (B, num_classes), with new weights.

    Args:
        name: ``five_block``; a classifier of torchvision, such as ``resnet18``; ``wide_resnet28_10``, of any depth and
            width; ``timm/NAME``, with the extra ``timm``; ``PACKAGE.MODULE:FUNCTION``, from a package that the user
            trusts (see `trust`); or that function itself.
        num_classes: number of logits; a function gets it as an argument.
        network_args: further arguments of a network other than ``five_block``.
        size: height and width of the images; None: 32. The first strides of networks of torchvision and timm are
            removed to suit it.
        five_block: arguments of `FiveBlockNet`; other networks ignore them.

    Raises:
        InputError: no such network, arguments that it does not accept, or outputs that are no logits.
    """
    args, size = dict(network_args or {}), size or SIZE
    if name == FIVE_BLOCK:
        if args:
            raise InputError(f"{FIVE_BLOCK} takes no network_args: use --model.widths, --model.gate and so on")
        return FiveBlockNet(num_classes, **five_block).to(memory_format=torch.channels_last)
    if taken := {"num_classes", *WEIGHTS} & {*args}:
        raise InputError(f"network_args must not have {min(taken)}: classes come from the data, and weights are new")
    if isinstance(name, nn.Module):
        raise InputError(f"network must be a function that returns a network, got a {type(name).__name__}")
    if not is_custom(name):
        build = import_module(PUBLISHED).find_builder(name, size)
    else:
        build = import_function(name, "network") if isinstance(name, str) else name
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


def is_custom(name: str | Callable[..., nn.Module]) -> bool:
    """Whether this is a function of the user, whose network is taken as it is."""
    return not isinstance(name, str) or (":" in name and not name.startswith(TIMM))


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


@torch.no_grad()
def probe(network: nn.Module, count: int, size: int, layout: torch.memory_format = torch.contiguous_format) -> Any:
    """Return a network's output, in evaluation mode, for black images (count, 3, size, size); it stays as it was."""
    with evaluating(network):
        return network(torch.zeros(count, 3, size, size).to(memory_format=layout))


def check_logits(network: nn.Module, num_classes: int, size: int) -> None:
    """Raise `InputError` unless the network maps two images, and one image, to logits."""
    for count, words in ((2, "two images"), (1, "one image")):
        output = probe(network, count, size)
        if not isinstance(output, torch.Tensor) or output.shape != (count, num_classes):
            found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise InputError(f"it returns {found} for {words}, not logits [{count}, {num_classes}]")
    if not output.is_meta and bool((output >= 0).all() and ((output.float().sum(1) - 1).abs() < 1e-5).all()):
        raise InputError("it returns probabilities, not logits: leave out its softmax, which the loss computes")
