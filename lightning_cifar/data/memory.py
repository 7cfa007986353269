"""How much memory there is, to decide whether images are kept in it."""

import os
from pathlib import Path

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def find_shortage(images: int, side: int) -> str | None:
    """Return why images of ``side`` pixels do not fit in memory; None if they do.

    A third of what is available must be enough: while they are split, all are there twice.
    """
    needed, free = 3 * side**2 * images, measure_memory()
    if needed <= free / 3:
        return None
    return (
        f"{images:,} images of {side}x{side} pixels need {needed / 1e9:.3g} GB, more than a third of the "
        f"{free / 1e9:.3g} GB of memory that are available"
    )


def measure_memory() -> int:
    """Return the bytes of memory that are available; those of the machine or of its container, whichever are fewer."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in map(Path, LIMITS):
        text = file.read_text().strip() if file.is_file() else ""
        sizes += [int(text)] if text.isdecimal() else []
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            sizes.append(1024 * int(line.split()[1]))
    return min(sizes)
