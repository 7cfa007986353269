"""Check of the sizes of training images: some networks accept one size only."""

from collections.abc import Sequence

from torch import nn

from lightning_cifar.errors import InputError, reason
from lightning_cifar.model.named import check_logits


def check_sizes(network: nn.Module, num_classes: int, sizes: Sequence[int]) -> None:
    """Raise `InputError` unless the network maps images of each size to logits."""
    for size in sizes:
        try:
            check_logits(network, num_classes, size)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise InputError(
                f"sizes {[*sizes]}: the network accepts no {size}x{size} pixels ({reason(error)}): set sizes to null"
            ) from error
