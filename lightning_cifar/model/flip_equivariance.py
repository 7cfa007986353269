"""Flip-equivariant layers: what they make of a mirrored image is what they made of the image, mirrored.

Half of a layer's channels are the mirror twins of the other half: of a mirrored image, each channel has the mirrored
values of its *partner*. Both halves share one set of filters, so a network of such layers has half the parameters for
the same work, and learns every image together with its mirror image. Group convolution (arXiv 1602.07576) over left and
right, the symmetry that photographs have.

Partners are an index (C,), its own inverse: channel ``partner[c]`` is the mirror twin of ``c``, which may be its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.model.parallel import BatchNorm


def halves(channels: int) -> Tensor:
    """The partners of a flip-equivariant layer's output: channel c of the first half and c of the second."""
    return torch.arange(channels).roll(channels // 2)


class FlipConv2d(nn.Conv2d):
    """Convolution (B, C, H, W) to (B, K, H, W); it learns K/2 filters, and the other K/2 are their mirror images.

    Args:
        in_channels: C.
        out_channels: K, even.
        kernel_size: odd; H and W are kept.
        bias: whether there is one, shared by twins.
        partner: (C,), that of the input.
    """

    partner: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool, partner: Tensor) -> None:
        super().__init__(in_channels, out_channels // 2, kernel_size, padding=kernel_size // 2, bias=bias)
        self.register_buffer("partner", partner, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.weight, self.weight.flip(3)[:, self.partner]])
        bias = self.bias if self.bias is None else self.bias.repeat(2)
        # cat keeps no memory format, and channels last is the fast one.
        return F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, padding=self.padding)


class FlipBatchNorm(BatchNorm):
    """Batch norm of K channels (B, K, H, W) by statistics that twins share: K/2 of each."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels // 2, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Twins side by side, as more pixels of one channel: where channels come last, these are views.
        pairs = x.permute(0, 2, 3, 1).reshape(batch, height, 2 * width, channels // 2).permute(0, 3, 1, 2)
        return super().forward(pairs).permute(0, 2, 3, 1).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class FlipMean(nn.Module):
    """Features (B, K) to those of image and mirror image together, (B, K/2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, -1)).mean(1)
