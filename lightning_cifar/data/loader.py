"""BatchLoader: batches of a set that lies in memory, in an order that depends on seed and epoch alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_cifar.data.sources import ImageSet
from lightning_cifar.errors import InputError


class BatchLoader:
    """Iterates over ``(images uint8 (B, 3, H, W), labels int64 (B,))``; Lightning takes it as any DataLoader.

    Args:
        data: the whole set.
        batch_size: B, at least 1; the last batch holds what is left.
        seed: shuffles every epoch anew by (seed, epoch); None keeps the order.
    """

    def __init__(self, data: ImageSet, batch_size: int, seed: int | None = None) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    @property
    def sampler(self) -> "BatchLoader":
        """Where Lightning looks for `set_epoch`, which it calls before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.seed is None:
            order = torch.arange(len(self.data))
        else:
            # A large odd multiplier keeps pairs apart: seed 0 at epoch 1 is not seed 1 at epoch 0.
            mixed = (self.seed * 0x9E3779B97F4A7C15 + self.epoch) % 2**63
            order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(mixed))
        for indices in order.split(self.batch_size):
            yield self.data.images[indices], self.data.labels[indices]
