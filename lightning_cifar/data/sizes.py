"""Progressive resizing, as in fast.ai's DAWNBench entries: the size of the training images by step."""

import math
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from lightning_cifar.errors import InputError


def find_size(sizes: Sequence[int], shares: Sequence[float] | None, step: int, total: float) -> int:
    """Return the image size at ``step`` of ``total`` steps, divided among ``sizes`` in order; None: equal shares."""
    if total == math.inf:
        raise InputError(f"sizes {sizes} need the training's length: set the Trainer's max_epochs or max_steps")
    sums = [*accumulate(shares or [1] * len(sizes))]
    return sizes[bisect([round(total * part / sums[-1]) for part in sums[:-1]], step)]
