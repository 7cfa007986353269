"""Published networks by name: those of torchvision and timm, fitted to small images, and wide residual networks."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torchvision
from torch import nn

from lightning_cifar.errors import check_name, require_extra
from lightning_cifar.model.named import FIVE_BLOCK
from lightning_cifar.networks.small_images import fit_to_small_images
from lightning_cifar.networks.wide_resnet import WideResNet

TIMM = "timm/"
WIDE_RESNET = re.compile(r"wide_resnet(\d{1,3})_(\d{1,3})")
UNFIT = ("googlenet", "inception_v3", "mnasnet")  # training has further outputs; weights need a version to be read


def find_published(name: str, size: int) -> Callable[..., nn.Module]:
    """Return the function that builds a published network for images of ``size`` pixels; `InputError` if none does."""
    if name.startswith(TIMM):
        require_extra(f"network {name}", "timm", ["timm"])
        import timm

        if timm.is_model(timm_name := name.removeprefix(TIMM)):  # any other name might be looked for on the internet
            return partial(build_fitted, partial(timm.create_model, timm_name), size)
        known = [f"{TIMM}{one}" for one in timm.list_models()]
    elif name in (known := list_names()):
        return partial(build_fitted, partial(torchvision.models.get_model, name), size)
    elif found := WIDE_RESNET.fullmatch(name):
        return partial(WideResNet, int(found[1]), int(found[2]))
    examples = f"those of torchvision, such as resnet18, {TIMM}NAME, and yours as PACKAGE.MODULE:FUNCTION"
    usual = (FIVE_BLOCK, "wide_resnet28_10")
    check_name(name, [*known, *usual], "network", ", ".join([*usual, examples]))
    raise AssertionError(name)


def list_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    return [name for name in torchvision.models.list_models(torchvision.models) if not name.startswith(UNFIT)]


def build_fitted(build: Callable[..., nn.Module], size: int, /, **args: Any) -> nn.Module:
    network = build(**args)
    with suppress(RuntimeError, AssertionError, ValueError):  # it takes one size: that of the images or another
        fit_to_small_images(network, size)
    return network
