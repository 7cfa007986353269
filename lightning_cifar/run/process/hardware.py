"""The machine's faster precision, and malloc settings for training."""

import copy
import ctypes
import sys
import time
from pathlib import Path

import torch
from torch import nn

from lightning_cifar.files import read_lines

IMAGES, STEPS = 64, 3
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def find_fastest_precision(network: nn.Module, device: torch.device, side: int) -> str:
    """Return ``bf16-mixed`` or ``32-true``, whichever trains ``network`` faster on images of ``side`` pixels.

    A CPU has the instructions or not; if that is unknown, both are measured. A GPU with bfloat16 uses it without a
    measurement, which would mostly time kernel launches; other accelerators, which are not tested, use float32. float16
    is never chosen: it needs loss scaling.
    """
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device.type != "cpu":
        return "32-true"
    return find_processor_precision() or measure_precision(network, side)


def measure_precision(network: nn.Module, side: int) -> str:
    """Time both precisions on the CPU, on a copy of the network and random images, for a second."""
    twin = copy.deepcopy(network).train()
    seconds: dict[str, float] = {}
    with torch.random.fork_rng([]):  # dropout draws
        batch = torch.rand(IMAGES, 3, side, side).contiguous(memory_format=torch.channels_last)
        for turn in range(2 * STEPS):  # in turn, for other processes come and go
            precision = ("32-true", "bf16-mixed")[turn % 2]
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                logits = twin(batch)
            logits.float().logsumexp(1).sum().backward()
            seconds[precision] = min(time.perf_counter() - start, seconds.get(precision, float("inf")))
    return min(seconds, key=seconds.__getitem__)


def find_processor_precision(info: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return ``bf16-mixed`` if the processor has bfloat16 instructions, else ``32-true``; None if that is unknown."""
    lines = (line for line in read_lines(info) if line.startswith(("flags", "Features")))
    flags = next(lines, "").partition(":")[2].split()
    if not flags:
        return None
    return "bf16-mixed" if {"avx512_bf16", "amx_bf16", "bf16"} & {*flags} else "32-true"


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed blocks, and return whether it does; does nothing on other systems than Linux.

    Otherwise malloc maps a batch's large activations anew and the kernel clears each page at first touch: several
    percent of a training step on CPU. In return the process stays as large as it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1
