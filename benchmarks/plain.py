"""The report's network in plain PyTorch, as one would write it first: the baseline of the speed benchmarks."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (32, 64, 128, 256, 256)


class PlainBlock(nn.Module):
    """Three convolutions, gated sum, batch norm, pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, 3)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(inputs, outputs, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.gate(x.mean((2, 3))))[:, :, None, None, None]
        y = a[:, 0] * F.relu(self.conv1(x)) + a[:, 1] * F.relu(self.conv2(x)) + a[:, 2] * F.relu(self.conv3(x))
        return F.max_pool2d(self.norm(y), 2)


def build_plain_network() -> nn.Sequential:
    blocks = [PlainBlock(*pair) for pair in zip((3, *WIDTHS), WIDTHS, strict=False)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))
