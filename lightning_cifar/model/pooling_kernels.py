"""Triton kernels of 2x2 max pooling: each reads its input once and writes its output once, without atomics.

Maps are channels-last, so that (B, H, W, K) is one row of memory. H and W are even.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 1024  # of a tile: pixels times channels


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima (B, K, H/2, W/2) and which of the four pixels each was: 0 to 3, int8."""
    batch, channels, height, width = x.shape
    y = empty_maps(batch, channels, height // 2, width // 2, like=x)
    winner = torch.empty_like(y, dtype=torch.int8)
    launch(pool_kernel, (x, y, winner), y)
    return y, winner


def spread(gradient: Tensor, winner: Tensor) -> Tensor:
    """Return the gradient (B, K, H, W) of the pixels: that of the maxima (B, K, H/2, W/2), 0 for all others."""
    batch, channels, height, width = gradient.shape
    result = empty_maps(batch, channels, 2 * height, 2 * width, like=gradient)
    launch(spread_kernel, (gradient, winner, result), gradient)
    return result


def empty_maps(*shape: int, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def launch(kernel: Any, tensors: tuple[Tensor, Tensor, Tensor], pooled: Tensor) -> None:
    """Launch a kernel on ``tensors``, of which ``pooled`` has the shape (B, K, H/2, W/2)."""
    channels, width = pooled.shape[1], pooled.shape[3]
    columns = triton.next_power_of_2(channels)
    rows = max(1, ELEMENTS // columns)
    pixels = pooled.numel() // channels
    with torch.cuda.device_of(pooled):  # Triton launches on the current device
        kernel[(triton.cdiv(pixels, rows),)](*tensors, pixels, width, channels, rows, columns)


@triton.jit
def locate(pixels, width, channels, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the offsets of a tile of pooled pixels, those of their upper left pixels, and which are not outside."""
    pixel = (tl.program_id(0) * rows + tl.arange(0, rows))[:, None]
    channel = tl.arange(0, columns)[None, :]
    first = (pixel // width) * 4 * width + (pixel % width) * 2  # two rows of 2 * width pixels for each pooled row
    inside = (pixel < pixels) & (channel < channels)
    return pixel.to(tl.int64) * channels + channel, first.to(tl.int64) * channels + channel, inside


@triton.jit
def pool_kernel(x, y, winner, pixels, width, channels, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    pooled, first, inside = locate(pixels, width, channels, rows, columns)
    best = tl.load(x + first, mask=inside).to(tl.float32)
    which = tl.zeros_like(best).to(tl.int8)
    for number in tl.static_range(1, 4):
        value = tl.load(x + first + (number % 2 + number // 2 * 2 * width) * channels, mask=inside).to(tl.float32)
        better = (value > best) | (value != value)  # NaN wins, as in torch
        best = tl.where(better, value, best)
        which = tl.where(better, number, which).to(tl.int8)
    tl.store(y + pooled, best, mask=inside)
    tl.store(winner + pooled, which, mask=inside)


@triton.jit
def spread_kernel(gradient, winner, result, pixels, width, channels, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    pooled, first, inside = locate(pixels, width, channels, rows, columns)
    value = tl.load(gradient + pooled, mask=inside)
    which = tl.load(winner + pooled, mask=inside)
    for number in tl.static_range(4):
        one = tl.where(which == number, value, 0.0)
        tl.store(result + first + (number % 2 + number // 2 * 2 * width) * channels, one, mask=inside)
