"""Processes of one run: rank 0, what it passes on to the others, and each process's shard of every batch."""

import json
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_cifar.errors import InputError

FROM_RANK_ZERO = "LIGHTNING_CIFAR_RANK_ZERO"  # environment variable, as JSON


def is_rank_zero() -> bool:
    """Whether this is the first process of the run, over all machines."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def pass_on(**values: Any) -> None:
    """Pass plain values on to the processes that Lightning will start by this process's command line."""
    os.environ[FROM_RANK_ZERO] = json.dumps(values)


def values_of_rank_zero() -> dict[str, Any]:
    """Return what rank 0 passed on; empty in rank 0, and in processes that ``torchrun`` or a scheduler started."""
    return {} if is_rank_zero() else json.loads(os.environ.get(FROM_RANK_ZERO, "{}"))


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
        """Return this shard of ``range(size)``, in order; the shards may differ in length by one."""
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def check(self, batch_size: int, size: int, drop_last: bool) -> None:
        """Raise `InputError` unless all batches of a set of ``size`` divide evenly among the shards."""
        last = 0 if drop_last else size % batch_size
        if batch_size % self.count or last % self.count:
            raise InputError(
                f"batch_size {batch_size} must divide evenly among {self.count} processes, and so must the last batch "
                f"of {last}, unless drop_last leaves it out"
            )


def current() -> Shard:
    """Return this process's shard; the whole batch if there is only one process."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    return Shard()


def gather(value: Any) -> list[Any]:
    """Return the value that each process passes, by rank; all processes must call this."""
    values = [None] * current().count
    dist.all_gather_object(values, value)
    return values
