"""Processes of one run: rank 0, what it hands down, and each process's shard of a batch."""

import json
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_cifar.errors import InputError

HANDED = "LIGHTNING_CIFAR_HANDED"  # environment variable


def is_first() -> bool:
    """Of all processes of the run, over all machines."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def hand_down(**values: Any) -> None:
    os.environ[HANDED] = json.dumps(values)


def handed_down() -> dict[str, Any]:
    """What the first process decided for all; empty in the first, and where Lightning did not start this one."""
    return {} if is_first() else json.loads(os.environ.get(HANDED, "{}"))


@dataclass(frozen=True)
class Shard:
    """Part ``rank`` of ``count`` equal parts."""

    rank: int = 0
    count: int = 1

    def of_batches(self, positions: Tensor, batch_size: int) -> Tensor:
        """This shard's part of each batch of ``batch_size``, one batch after the other.

        What `check` lets pass divides evenly, but for a last batch that is left out.
        """
        whole = len(positions) // batch_size * batch_size
        batches = positions[:whole].view(-1, self.count, batch_size // self.count)
        rest = (len(positions) - whole) // self.count * self.count
        last = positions[whole : whole + rest].view(self.count, -1)
        return torch.cat([batches[:, self.rank].flatten(), last[self.rank]])

    def of_set(self, size: int) -> slice:
        """This shard's part of ``range(size)``: all shards give each once, in order."""
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def of_draws(self, draws: Tensor) -> Tensor:
        """This shard's rows of what was drawn for the batch of all."""
        return draws.view(self.count, -1, *draws.shape[1:])[self.rank]

    def check(self, batch_size: int, size: int, drop_last: bool) -> None:
        """Refuses, by an `InputError`, a batch size whose batches of a set of ``size`` do not divide evenly."""
        last = 0 if drop_last else size % batch_size
        if batch_size % self.count or last % self.count:
            raise InputError(
                f"--data.batch_size {batch_size} must divide evenly among {self.count} processes, and so must the last "
                f"batch of {last}, unless --data.drop_last true leaves it out"
            )


def current() -> Shard:
    """That of this process: the whole, where it is the only one."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    return Shard()
