"""2x2 max pooling: torch's on a CPU, and two faster versions with the same results for CUDA and for compiled networks.

On a GPU, torch's pooling takes a quarter of a training step: its backward pass scatters by atomic additions in float32.
"""

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def max_pool(x: Tensor) -> Tensor:
    """Pool 2x2 pixels, (B, K, H, W) to (B, K, H/2, W/2), rounded up.

    Along a side of odd length the window is 3 pixels wide and centred, so that left and right are treated alike.
    """
    odd = (x.shape[2] % 2, x.shape[3] % 2)
    if odd == (0, 0) and torch.compiler.is_compiling():
        return PointwiseMaxPool.apply(x)
    fits = odd == (0, 0) and x.is_cuda and x.dtype != torch.float64  # the kernels compare in float32
    if fits and x.is_contiguous(memory_format=torch.channels_last) and load_kernels():
        return KernelMaxPool.apply(x)
    return F.max_pool2d(x, (2 + odd[0], 2 + odd[1]), 2, odd)


@cache
def load_kernels() -> ModuleType | None:
    """Return `pooling_kernels`; None without Triton, which not every build of torch brings along."""
    try:
        from lightning_cifar.model import pooling_kernels
    except ImportError:
        return None
    return pooling_kernels


class KernelMaxPool(torch.autograd.Function):
    """2x2 max pooling of channels-last maps by the kernels of `pooling_kernels`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, winner = load_kernels().pool(x)  # type: ignore[union-attr]
        ctx.save_for_backward(winner)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (winner,), (gradient,) = ctx.saved_tensors, gradients
        return load_kernels().spread(gradient.contiguous(memory_format=torch.channels_last), winner)  # type: ignore[union-attr]


class PointwiseMaxPool(torch.autograd.Function):
    """2x2 max pooling by pointwise operations, which Inductor joins with the operations around them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # (B, K, H, W) -> (B, K, H/2, W/2)
        corners = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        y = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
        winner = torch.full_like(y, 3, dtype=torch.int8)
        for number in (2, 1, 0):  # of equal pixels the first one
            winner = torch.where(corners[number] == y, number, winner)
        ctx.save_for_backward(winner)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (winner,), (gradient,) = ctx.saved_tensors, gradients
        batch, channels, height, width = gradient.shape
        corner = torch.arange(4, device=gradient.device).view(2, 1, 2, 1)  # row, -, column, -
        # (B, H/2, 2, W/2, 2, K): both sides doubled, channels last
        shape = (batch, height, 2, width, 2, channels)
        winner, gradient = (t.permute(0, 2, 3, 1)[:, :, None, :, None].expand(shape) for t in (winner, gradient))
        spread = torch.where(winner == corner, gradient, 0)
        return spread.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
