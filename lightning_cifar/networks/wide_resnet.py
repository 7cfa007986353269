"""Wide residual networks for images of 32x32 pixels (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError, check_range

STAGES = 3  # of 16, 32 and 64 filters, times the width; each but the first halves height and width


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, added to the input: (B, inputs, H, W) to (B, width, H, W).

    ``stride`` 2 halves H and W. Where the shape changes, a 1x1 convolution of the activated input is added instead.
    """

    def __init__(self, inputs: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(width)
        self.convolution1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.convolution2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = stride != 1 or inputs != width
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if changes else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        active = F.relu(self.norm1(images))
        skipped = images if self.shortcut is None else self.shortcut(active)
        maps = self.dropout(F.relu(self.norm2(self.convolution1(active))))
        return skipped + self.convolution2(maps)


class WideResNet(nn.Sequential):
    """Map images (B, 3, H, W) to logits (B, num_classes).

    Args:
        depth: number of layers that are counted, 6n + 4 for n blocks in each of three stages: 16, 22, 28, 40.
        width: factor of the 16, 32 and 64 filters of the stages.
        num_classes: number of logits.
        dropout: probability in [0, 1) between the convolutions of a block.
    """

    def __init__(self, depth: int, width: int, num_classes: int, dropout: float = 0.0) -> None:
        blocks = (depth - 4) // 6
        if blocks < 1 or (depth - 4) % 6:
            raise InputError(f"a wide ResNet has 10, 16, 22, 28 ... layers, not {depth}")
        check_range("width", width, "[1, inf)", whole=True)
        check_range("dropout", dropout, "[0, 1)")
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
        inputs = 16
        for stage in range(STAGES):
            for number in range(blocks):
                outputs = width * 16 * 2**stage
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(PreActivationBlock(inputs, outputs, stride, dropout))
                inputs = outputs
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(inputs, num_classes))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
