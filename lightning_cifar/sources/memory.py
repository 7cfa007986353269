"""How much memory there is, to decide whether images are kept in it."""

import os
from pathlib import Path

from lightning_cifar.files import read_lines


def find_shortage(images: int, side: int) -> str | None:
    """Return why images of ``side`` pixels do not fit in memory; None if they do.

    A third of what is available must be enough: while they are split, all are there twice.
    """
    needed, free = 3 * side**2 * images, measure_memory()
    if needed <= free / 3:
        return None
    need = f"{images:,} images of {side}x{side} pixels need {needed / 1e9:.3g} GB"
    return f"{need}, more than a third of the {free / 1e9:.3g} GB of memory that are available"


def measure_memory() -> int:
    """Return the bytes of memory that are available: of the machine or of a control group, whichever are fewest.

    Containers and the jobs of a scheduler have control groups, of version 1 or 2, with limits at any level.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for line in ("::/", ":memory:/", *read_lines(Path("/proc/self/cgroup"))):
        _, kind, group = line.split(":", 2)
        if kind in ("", "memory"):
            own = Path("/sys/fs/cgroup", kind, group.lstrip("/"))
            files = [one / ("memory.limit_in_bytes" if kind else "memory.max") for one in (own, *own.parents)]
            sizes += [int(text) for file in files for text in read_lines(file) if text.isdecimal()]  # not `max`
    sizes += [1024 * int(line.split()[1]) for line in read_lines(Path("/proc/meminfo")) if "MemAvailable:" in line]
    return min(sizes)
