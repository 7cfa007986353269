"""Progressive resizing, as in fast.ai's DAWNBench entries: the size of the training images by step."""

import math
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from lightning_cifar.errors import InputError, check_range


def check_sizes(sizes: Sequence[int], shares: Sequence[float] | None, largest: int) -> None:
    """Raise `InputError` unless all sizes are in [8, largest] and ``shares`` is None or has one share for each."""
    check_range("the number of sizes", len(sizes), "[1, inf)")
    for size in sizes:
        check_range("sizes", size, f"[8, {largest}]")
    for share in shares or ():
        check_range("size_shares", share, "(0, 1e9]")
    if shares is not None and not len(shares) == len(sizes) > 1:
        problem = f"size_shares must have one share for each of several sizes, got {shares} for sizes {sizes}"
        raise InputError(f"{problem}; leave it out for equal shares")


def find_size(sizes: Sequence[int], shares: Sequence[float] | None, step: int, total: float) -> int:
    """Return the image size at ``step`` of ``total`` steps, divided among ``sizes`` in order; None: equal shares."""
    if total == math.inf:
        raise InputError(f"sizes {sizes} need the training's length: set the Trainer's max_epochs or max_steps")
    sums = [*accumulate(shares or [1] * len(sizes))]
    return sizes[bisect([round(total * part / sums[-1]) for part in sums[:-1]], step)]
