"""What the machine at hand does best: precision, and malloc settings for training."""

import copy
import ctypes
import sys
import time

import torch
from torch import Tensor, nn

IMAGES, STEPS = 64, 3


def fastest_precision(network: nn.Module, images: Tensor) -> str:
    """``bf16-mixed`` or ``32-true``, whichever trains ``network`` faster on the device of ``images``.

    Processors without bfloat16 instructions emulate it, several times slower than float32. On a GPU nothing is
    measured: what can do it is faster in it wherever speed counts, and a short measurement would tell of little but the
    time to start kernels. float16 is never chosen: on CPU it is slower still, and everywhere it needs loss scaling.
    Takes about a second; the network stays as it is.

    Args:
        network: takes images, gives logits.
        images: a batch as in training, (B, C, H, W) floats; its first 64 images are used.
    """
    if images.device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    twin = copy.deepcopy(network).to(images.device).to(memory_format=torch.channels_last).train()
    batch = images[:IMAGES].contiguous(memory_format=torch.channels_last)
    seconds = {}
    with torch.random.fork_rng([]):  # dropout draws
        for precision, mixed in (("32-true", False), ("bf16-mixed", True)):
            times = []
            for _ in range(STEPS):
                start = time.perf_counter()
                with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
                    logits = twin(batch)
                logits.float().logsumexp(1).sum().backward()
                times.append(time.perf_counter() - start)
            seconds[precision] = min(times)
    return min(seconds, key=seconds.__getitem__)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc's malloc not to hand freed blocks back to the system; whether it did so.

    Activations of a batch are large, so malloc maps each anew and the kernel clears every page at first touch: several
    percent of a training step on CPU. Elsewhere than on Linux with glibc nothing happens. The process stays as large as
    it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1
