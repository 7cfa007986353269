"""Processes of one run: whether this is the first, and what it hands to those that Lightning starts after it.

Lightning starts them by the command line that the first was started with; ``torchrun`` and schedulers start all alike.
"""

import json
import os
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

HANDED = "LIGHTNING_CIFAR_HANDED"  # environment variable


def is_first() -> bool:
    """Of all processes of the run, over all machines."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def hand_down(**values: Any) -> None:
    os.environ[HANDED] = json.dumps(values)


def handed_down() -> dict[str, Any]:
    """What the first process decided for all; empty in the first, and where Lightning did not start this one."""
    return {} if is_first() else json.loads(os.environ.get(HANDED, "{}"))
