"""Keeps freed memory in the process: a training step asks for the same blocks again at once."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc's malloc not to hand freed blocks back to the system; whether it did so.

    Activations of a batch are large, so malloc maps each anew and the kernel clears every page at first touch: several
    percent of a training step on CPU. Elsewhere than on Linux with glibc nothing happens. The process stays as large as
    it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1
