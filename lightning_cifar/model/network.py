"""FiveBlockNet: the backbone of five gated blocks and the MLP that classifies its features.

| stage      | shape of one image, input 3 x 32 x 32          |
|------------|------------------------------------------------|
| block 1..5 | widths[i] x 32, 16, 8, 4, 2 (each input's H x W) |
| after each | batch norm, 2x2 max pool: 16, 8, 4, 2, 1       |
| classifier | average pool, widths[4] -> hidden -> classes   |
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_cifar.errors import InputError
from lightning_cifar.model.blocks import GatedBlock

BLOCKS = 5
MIN_SIZE = 2**BLOCKS  # five poolings halve 32 pixels to 1


class Backbone(nn.Sequential):
    """Five gated blocks, each followed by batch norm and 2x2 max pooling: ``(B, C, H, W) -> (B, K5, H/32, W/32)``.

    Args:
        in_channels: colour channels of the images.
        widths: output channels of the five blocks.
        kernel_sizes: odd sizes of the three convolutions of every block.
        fused: see `GatedBlock`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        kernel_sizes: Sequence[int] = (3, 3, 3),
        fused: bool = False,
    ) -> None:
        if len(widths) != BLOCKS or min(widths) < 1:
            raise InputError(f"widths must be five positive numbers, got {list(widths)}")
        super().__init__(
            *(
                nn.Sequential(
                    GatedBlock(inputs, outputs, kernel_sizes, fused), nn.BatchNorm2d(outputs), nn.MaxPool2d(2)
                )
                for inputs, outputs in zip((in_channels, *widths), widths, strict=False)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < MIN_SIZE:
            raise InputError(
                f"images must be at least {MIN_SIZE}x{MIN_SIZE}, got {images.shape[-2]}x{images.shape[-1]}"
            )
        return super().forward(images)


class FiveBlockNet(nn.Module):
    """The report's network: `Backbone`, average pool and a two-layer MLP with dropout; images in, logits out.

    Args:
        num_classes: number of logits.
        in_channels: colour channels of the images.
        widths: output channels of the five blocks.
        kernel_sizes: odd sizes of the three convolutions of every block.
        hidden: width of the MLP's hidden layer.
        dropout: probability in [0, 1) of dropping a hidden unit while training.
        fused: see `GatedBlock`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        kernel_sizes: Sequence[int] = (3, 3, 3),
        hidden: int = 256,
        dropout: float = 0.5,
        fused: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {dropout}")
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels), ("hidden", hidden)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.backbone = Backbone(in_channels, widths, kernel_sizes, fused)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:  # (B, in_channels, H, W) -> (B, num_classes)
        return self.classifier(self.backbone(images))
