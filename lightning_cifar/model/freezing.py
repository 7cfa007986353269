"""Freezing: parts of a network, counted from the images on, that training leaves as they are."""

from collections.abc import Iterable

from torch import nn

from lightning_cifar.errors import InputError
from lightning_cifar.model.network import FiveBlockNet


def freeze(networks: Iterable[nn.Module], count: int) -> list[nn.Module]:
    """Freeze the weights of the first ``count`` parts of each network, and return these parts.

    A part is a block of a `FiveBlockNet`, the stem going with the first one, or a direct child of another network that
    has parameters, but not the last, its classifier. The statistics of batch norm stay too in evaluation mode.

    Raises:
        InputError: there are not so many parts.
    """
    frozen: list[nn.Module] = []
    for network in networks if count else ():
        if isinstance(network, FiveBlockNet):
            parts = [nn.ModuleList(filter(None, [network.stem, network.blocks[0]])), *network.blocks[1:]]
        else:
            parts = [child for child in network.children() if next(child.parameters(), None) is not None][:-1]
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= len(parts):
            raise InputError(f"freeze must be a whole number in [0, {len(parts)}] for this network, got {count!r}")
        frozen += [part.requires_grad_(False) for part in parts[:count]]
    return frozen
