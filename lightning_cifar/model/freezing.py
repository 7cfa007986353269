"""Freezing: the first blocks of a network are not trained."""

from collections.abc import Iterable

from torch import nn

from lightning_cifar.errors import check_range
from lightning_cifar.model.network import FiveBlockNet


def freeze(networks: Iterable[nn.Module], count: int) -> list[nn.Module]:
    """Freeze the weights of the first ``count`` blocks of each network, and return these blocks.

    Blocks are those of a `FiveBlockNet`, its stem going with the first one. In another network, blocks are the direct
    children with parameters, except the last, its classifier. Batch norm keeps its statistics in evaluation mode only.
    """
    if not count:
        return []
    frozen: list[nn.Module] = []
    for network in networks:
        if isinstance(network, FiveBlockNet):
            blocks = [nn.ModuleList(filter(None, [network.stem, network.blocks[0]])), *network.blocks[1:]]
        else:
            blocks = [child for child in network.children() if next(child.parameters(), None) is not None][:-1]
        check_range("freeze", count, f"[0, {len(blocks)}]", whole=True)
        frozen += [block.requires_grad_(False) for block in blocks[:count]]
    return frozen
