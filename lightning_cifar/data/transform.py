"""Further augmentation of training batches: policies of torchvision by name, and functions of the user."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_cifar.errors import InputError, reason
from lightning_cifar.imports import import_function

Transform = Callable[[Tensor], Tensor]
# RandAugment (arXiv 1909.13719) and TrivialAugment (arXiv 2103.10158).
POLICIES = {"rand_augment": v2.RandAugment, "trivial_augment": v2.TrivialAugmentWide}


def find_transform(named: str | Transform | None) -> Transform | None:
    """Return the function that a data module's ``transform`` names; `InputError` if there is none."""
    if isinstance(named, str) and named in POLICIES:
        policy = POLICIES[named]()
        # One by one: torchvision draws once per call, and a batch needs a draw for each image.
        return lambda images: torch.stack([policy(image) for image in images])
    if named is None or callable(named):
        return named
    if not isinstance(named, str) or ":" not in named:
        known = ", ".join(POLICIES)
        raise InputError(f"transform must be {known} or PACKAGE.MODULE:FUNCTION, got {named}")
    return import_function(named, "transform")


def apply_transform(transform: Transform | None, images: Tensor) -> Tensor:
    """Return the transformed images; `InputError` if that fails, or changes their shape, type or device."""
    if transform is None:
        return images
    try:
        result = transform(images)
    except (AttributeError, LookupError, NameError, TypeError, ValueError) as error:  # RuntimeError may be of the GPU
        raise InputError(f"transform failed on {images.dtype} {list(images.shape)}: {reason(error)}") from error
    if not isinstance(result, Tensor) or describe(result) != describe(images):
        found = describe(result) if isinstance(result, Tensor) else type(result).__name__
        raise InputError(f"transform returned {found} for {describe(images)}: it must keep type, shape and device")
    return result


def describe(images: Tensor) -> str:
    return f"{images.dtype} {list(images.shape)} on {images.device}"
