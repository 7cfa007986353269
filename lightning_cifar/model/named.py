"""Networks by name. `lightning_cifar.networks` builds those other than `FiveBlockNet`, and is imported for them."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

import torch
from torch import nn

from lightning_cifar.data.square import SIZE
from lightning_cifar.errors import InputError
from lightning_cifar.model.network import FiveBlockNet

FIVE_BLOCK = "five_block"


def build_network(
    name: str | Callable[..., nn.Module],
    num_classes: int,
    network_args: Mapping[str, Any] | None = None,
    size: int | None = None,
    **five_block: Any,
) -> nn.Module:
    """Build a network that maps images (B, 3, size, size) to logits (B, num_classes), with new weights.

    Args:
        name: ``five_block``; a classifier of torchvision, such as ``resnet18``; ``wide_resnet28_10``, of depth 10, 16,
            22, 28 ... and any width; ``timm/NAME``, with the extra ``timm``; ``PACKAGE.MODULE:FUNCTION``, from a
            package that the user trusts (see `trust`); or that function itself.
        num_classes: number of logits; a function gets it as an argument.
        network_args: further arguments of a network other than ``five_block``.
        size: height and width of the images; None: 32. The first strides of networks of torchvision and timm are
            removed to suit it.
        five_block: arguments of `FiveBlockNet`; other networks ignore them.

    Raises:
        InputError: no such network, arguments that it does not accept, or outputs that are no logits.
    """
    if name != FIVE_BLOCK:
        build = import_module("lightning_cifar.networks.builder").build_other
        return cast(nn.Module, build(name, num_classes, dict(network_args or {}), size or SIZE))
    if network_args:
        raise InputError(f"{FIVE_BLOCK} takes no network_args: set widths, gate and so on")
    return FiveBlockNet(num_classes, **five_block).to(memory_format=torch.channels_last)
