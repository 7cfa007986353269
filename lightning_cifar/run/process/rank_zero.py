"""Rank 0, the first process of a run, and what it passes on to the processes that Lightning starts."""

import json
import os
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

FROM_RANK_ZERO = "LIGHTNING_CIFAR_RANK_ZERO"  # environment variable, as JSON


def is_rank_zero() -> bool:
    """Return whether this is the first process of the run, over all machines."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def pass_on(**values: Any) -> None:
    """Pass plain values on to the processes that Lightning will start by this process's command line."""
    os.environ[FROM_RANK_ZERO] = json.dumps(json.loads(os.environ.get(FROM_RANK_ZERO, "{}")) | values)


def values_of_rank_zero() -> dict[str, Any]:
    """Return what rank 0 passed on; empty in rank 0, and in processes that ``torchrun`` or a scheduler started."""
    return {} if is_rank_zero() else json.loads(os.environ.get(FROM_RANK_ZERO, "{}"))
