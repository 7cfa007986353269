"""Shards: the part of every batch, and of every evaluated set, that each process of a training gets."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_cifar.errors import InputError, format_count


@dataclass(frozen=True)
class Shard:
    """Shard ``rank`` of ``count`` equal shards, so that several processes train as one would.

    Every process draws the same random numbers, for the global batch or all images, and uses those of its shard.
    """

    rank: int = 0
    count: int = 1

    def of_batches(self, positions: Tensor, batch_size: int) -> Tensor:
        """Return this shard of each global batch of ``batch_size`` positions, batch after batch.

        `check` ensures that all batches divide evenly, except a last one that is dropped.
        """
        whole = len(positions) // batch_size * batch_size
        batches = positions[:whole].view(-1, self.count, batch_size // self.count)
        rest = (len(positions) - whole) // self.count * self.count
        last = positions[whole : whole + rest].view(self.count, -1)
        return torch.cat([batches[:, self.rank].flatten(), last[self.rank]])

    def of_set(self, size: int) -> slice:
        """Return this shard of ``range(size)``, in order; the shards may differ in length by one. None may be empty."""
        if 0 < size < self.count:
            few = format_count(size, "image")
            raise InputError(f"{few} to evaluate cannot be divided among {self.count} processes: use fewer processes")
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def check(self, batch_size: int, size: int, drop_last: bool) -> None:
        """Raise `InputError` unless all batches of a set of ``size`` divide evenly among the shards."""
        last = 0 if drop_last else size % batch_size
        if batch_size % self.count or last % self.count:
            rest = f", and so must the last batch of {last}, unless drop_last leaves it out" if last else ""
            raise InputError(f"batch_size {batch_size} must divide evenly among {self.count} processes{rest}")


def find_shard() -> Shard:
    """Return this process's shard; the whole batch if there is only one process."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    return Shard()
