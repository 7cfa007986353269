"""GatedBlock: three convolutions of one input, mixed per sample by a gate computed from that input.

Relatives in the literature: Squeeze-and-Excitation (arXiv 1709.01507), SKNet (1903.06586),
CondConv (1904.04971), Dynamic Convolution (1912.03458).

Shapes: B samples, C input channels, K output channels, H x W pixels.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError

BRANCHES = 3


class GatedBlock(nn.Module):
    """``a1*relu(conv1(x)) + a2*relu(conv2(x)) + a3*relu(conv3(x))`` with ``a = relu(Linear(mean(x)))``.

    The fused form computes the three convolutions as one with 3K filters. It has the same parameters and, within
    rounding, the same outputs and gradients as the formula written out, so ``fused`` can be switched on a trained
    block whose kernel sizes agree.

    Args:
        in_channels: C, at least 1.
        out_channels: K, at least 1.
        kernel_sizes: odd sizes of the three convolutions; each keeps H and W.
        fused: use the fused form where the kernel sizes agree; elsewhere the formula is computed as written.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int] = (3, 3, 3), fused: bool = False
    ) -> None:
        super().__init__()
        if len(kernel_sizes) != BRANCHES or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise InputError(f"kernel_sizes must be three odd numbers, got {list(kernel_sizes)}")
        self.fused = fused and len(set(kernel_sizes)) == 1
        linear = nn.Linear(in_channels, BRANCHES)
        # A ReLU gate with random weights can start, or fall, dead at (0, 0, 0), where it has no gradient: training then
        # stalls near chance for epochs. Opening every gate at 1 avoids it.
        nn.init.zeros_(linear.weight)
        nn.init.ones_(linear.bias)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear, nn.ReLU())
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, size, padding=size // 2) for size in kernel_sizes
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H, W)
        gate = self.gate(x)[:, :, None, None, None]  # (B, 3, 1, 1, 1)
        if self.fused:
            branches = cast(list[nn.Conv2d], list(self.branches))
            weight = torch.cat([branch.weight for branch in branches])  # (3K, C, k, k)
            bias = torch.cat([cast(Tensor, branch.bias) for branch in branches])
            stacked = F.relu(F.conv2d(x, weight, bias, padding="same"))  # (B, 3K, H, W)
            responses = stacked.unflatten(1, (BRANCHES, -1)).unbind(1)  # 3 of (B, K, H, W)
        else:
            responses = tuple(F.relu(branch(x)) for branch in self.branches)
        a1, a2, a3 = gate.unbind(1)
        y1, y2, y3 = responses
        return a1 * y1 + a2 * y2 + a3 * y3
