"""Flip-equivariant layers: a mirrored input gives the mirrored output, with channels exchanged in pairs.

Each channel has a mirror twin: for a mirrored image, a channel holds the mirrored values that its twin holds for the
image. Twins share one filter, so these layers have half the parameters of ordinary ones, for the same work. They are
group convolutions (arXiv 1602.07576) over the group of left-right reflection.

``partner`` (C,) is an index and its own inverse: channel ``partner[c]`` is the twin of ``c``, possibly ``c`` itself.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.model.parallel import BatchNorm


def pair_halves(channels: int) -> Tensor:
    """Return the partners (channels,) of a layer's output: channel c of the first half and c of the second half."""
    return torch.arange(channels).roll(channels // 2)


class FlipConv2d(nn.Conv2d):
    """Convolution (B, C, H, W) to (B, K, H, W) that learns K/2 filters; the other K/2 are their mirror images.

    ``kernel_size`` is odd, K even; twins share a bias; ``partner`` (C,) are the twins of the input channels.
    """

    partner: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool, partner: Tensor) -> None:
        super().__init__(in_channels, out_channels // 2, kernel_size, padding=kernel_size // 2, bias=bias)
        self.register_buffer("partner", partner, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.weight, self.weight.flip(3)[:, self.partner]])
        bias = self.bias if self.bias is None else self.bias.repeat(2)
        # cat drops the memory format, and channels last is the fast one.
        return F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, padding=self.padding)


class FlipBatchNorm(BatchNorm):
    """Batch norm of K channels (B, K, H, W) with K/2 sets of statistics and parameters, shared by twins."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels // 2, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Twins become more pixels of one channel; with channels last, all of these are views.
        pairs = x.permute(0, 2, 3, 1).reshape(batch, height, 2 * width, channels // 2).permute(0, 3, 1, 2)
        return super().forward(pairs).permute(0, 2, 3, 1).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class FlipMean(nn.Module):
    """Mean over twins, (B, K) to (B, K/2): features that are equal for an image and its mirror image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, -1)).mean(1)
