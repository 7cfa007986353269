"""2x2 max pooling, in a form that compiles to few kernels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def max_pool(x: Tensor) -> Tensor:
    """Pool 2x2 pixels, (B, K, H, W) to (B, K, H/2, W/2), rounded up.

    Along a side of odd length the window is 3 pixels wide and centred, so that left and right are treated alike.
    """
    odd = (x.shape[2] % 2, x.shape[3] % 2)
    if torch.compiler.is_compiling() and odd == (0, 0):
        return PointwiseMaxPool.apply(x)
    return F.max_pool2d(x, (2 + odd[0], 2 + odd[1]), 2, odd)


class PointwiseMaxPool(torch.autograd.Function):
    """2x2 max pooling by pointwise operations, with the values and gradients of torch's.

    Inductor joins these with the operations around them. Of torch's pooling it makes a backward pass that scatters by
    atomic additions in float32 and then transposes, over a third of the memory traffic of a step.
    """

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
        winner, gradient = (
            t.permute(0, 2, 3, 1)[:, :, None, :, None].expand(batch, height, 2, width, 2, channels)
            for t in (winner, gradient)
        )
        spread = torch.where(winner == corner[None, None, :, :, :], gradient, 0)
        return spread.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
