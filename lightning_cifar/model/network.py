"""FiveBlockNet: the backbone of five gated blocks and the classifier of its features.

The report's network, which is what the defaults give:

| stage      | shape of one image, input 3 x 32 x 32          |
|------------|------------------------------------------------|
| block 1..5 | widths[i] x 32, 16, 8, 4, 2 (each input's H x W) |
| after each | batch norm, 2x2 max pool: 16, 8, 4, 2, 1       |
| classifier | average pool, widths[4] -> hidden -> classes   |

Recipes for speed may put a frozen whitening stem before the blocks, pool in some of them only, and end in one linear
layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError, check_choice
from lightning_cifar.model.blocks import Activation, GatedBlock, Step
from lightning_cifar.model.flip_equivariance import FlipMean, halves
from lightning_cifar.model.gates import GateName
from lightning_cifar.model.parallel import Dropout
from lightning_cifar.model.stem import WhiteningStem

GlobalPool = Literal["average", "max"]
BLOCKS = 5


class Backbone(nn.Sequential):
    """Five gated blocks, with batch norm and, where ``pools`` says so, 2x2 max pooling in each.

    ``(B, C, H, W) -> (B, K5, H/2**p, W/2**p)``, rounded up, where p is the number of blocks that pool.

    Args:
        in_channels: channels of the first block's input.
        widths: output channels of the five blocks.
        kernel_sizes: odd sizes of the convolutions of every block.
        order: see `GatedBlock`; the report's as it stands.
        pools: which of the five blocks pool.
        depths: residual convolutions after each block's mix.
        partner: that of the input, for flip-equivariant blocks; see `GatedBlock`.
        block: every other argument of `GatedBlock`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        kernel_sizes: Sequence[int] = (3, 3, 3),
        order: Sequence[Step] = ("activation", "sum", "norm", "pool"),
        pools: Sequence[bool] = (True, True, True, True, True),
        depths: Sequence[int] = (0, 0, 0, 0, 0),
        partner: Tensor | None = None,
        **block: Any,
    ) -> None:
        if len(widths) != BLOCKS or min(widths) < 1:
            raise InputError(f"widths must be five positive numbers, got {list(widths)}")
        if len(pools) != BLOCKS:
            raise InputError(f"pools must say true or false for each of five blocks, got {list(pools)}")
        if len(depths) != BLOCKS:
            raise InputError(f"depths must be five numbers, got {list(depths)}")
        blocks = []
        for outputs, pool, depth in zip(widths, pools, depths, strict=True):
            steps = [step for step in order if pool or step != "pool"]
            blocks.append(GatedBlock(in_channels, outputs, kernel_sizes, steps, depth=depth, partner=partner, **block))
            in_channels = outputs
            partner = None if partner is None else halves(outputs)
        super().__init__(*blocks)


class GlobalMaxPool(nn.Module):
    """The largest of each map, (B, K, H, W) to (B, K, 1, 1); torch's adaptive one is not deterministic on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, (x.shape[2], x.shape[3]))


class FiveBlockNet(nn.Module):
    """Images in, logits out: an optional whitening stem, `Backbone`, global pooling and a classifier.

    The defaults are the report's network: no stem, average pool and a two-layer MLP with dropout.

    Args:
        num_classes: number of logits.
        in_channels: colour channels of the images.
        widths: output channels of the five blocks.
        kernel_sizes: odd sizes of the convolutions of every block, three in the report.
        order: what follows the convolutions of a block; see `GatedBlock`.
        pools: which of the five blocks pool.
        depths: residual 3x3 convolutions after each block's mix; see `Residual`.
        activation: ``relu`` or ``gelu``, of blocks and stem.
        bias: whether the blocks' convolutions have one.
        dirac: start each block's first convolution as the identity; see `GatedBlock`.
        norm_scale: learn batch norm's scale.
        norm_momentum: weight of the newest batch in batch norm's running statistics.
        gate: ``relu`` as reported, ``softmax``, ``residual``, ``channel`` or ``static``; see `Gate`.
        temperature: of the softmax gate, above 0.
        stem_kernel: patch size of a `WhiteningStem`; 0: none.
        stem_stride: the stem's stride.
        stem_bias: whether the stem learns a bias.
        global_pool: ``average`` or ``max`` over what pixels are left.
        hidden: width of the MLP's hidden layer; 0: one linear layer without bias instead of the MLP.
        dropout: probability in [0, 1) of dropping a hidden unit while training.
        flip_equivariant: mirrored images have mirrored maps and the same logits, by channels that are twins (see
            `flips`); for the same work, half the parameters. ``widths`` must be even.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        kernel_sizes: Sequence[int] = (3, 3, 3),
        order: Sequence[Step] = ("activation", "sum", "norm", "pool"),
        pools: Sequence[bool] = (True, True, True, True, True),
        depths: Sequence[int] = (0, 0, 0, 0, 0),
        activation: Activation = "relu",
        bias: bool = True,
        dirac: bool = False,
        norm_scale: bool = True,
        norm_momentum: float = 0.1,
        gate: GateName = "relu",
        temperature: float = 1.0,
        stem_kernel: int = 0,
        stem_stride: int = 1,
        stem_bias: bool = True,
        global_pool: GlobalPool = "average",
        hidden: int = 256,
        dropout: float = 0.5,
        flip_equivariant: bool = False,
    ) -> None:
        super().__init__()
        check_choice("global_pool", global_pool, GlobalPool)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {dropout}")
        for name, value, least in (
            ("num_classes", num_classes, 1),
            ("in_channels", in_channels, 1),
            ("hidden", hidden, 0),
            ("stem_kernel", stem_kernel, 0),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        self.stem, inputs = None, in_channels
        partner = torch.arange(in_channels) if flip_equivariant else None  # a colour's mirror image is of that colour
        if stem_kernel:
            self.stem = WhiteningStem(in_channels, stem_kernel, stem_stride, activation, stem_bias, flip_equivariant)
            inputs, partner = self.stem.out_channels, self.stem.partner
        self.backbone = Backbone(
            inputs,
            widths,
            kernel_sizes,
            order,
            pools,
            depths,
            partner,
            activation=activation,
            bias=bias,
            dirac=dirac,
            norm_scale=norm_scale,
            norm_momentum=norm_momentum,
            gate=gate,
            temperature=temperature,
        )
        self.classifier = nn.Sequential(
            GlobalMaxPool() if global_pool == "max" else nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        features = widths[-1]
        if flip_equivariant:
            self.classifier.append(FlipMean())
            features //= 2
        if hidden:
            layers = (nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, num_classes))
            self.classifier.extend(layers)
        else:
            head = nn.Linear(features, num_classes, bias=False)
            nn.init.normal_(head.weight, std=1 / features)  # logits near 0: no class is preferred at first
            self.classifier.append(head)

    @property
    def blocks(self) -> list[GatedBlock]:
        return [block for block in self.backbone if isinstance(block, GatedBlock)]

    def through_blocks(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each block, of images (B, in_channels, H, W): what its gate gives branches, (B, N, 1 or K); its maps."""
        maps = self.stem(images) if self.stem is not None else images
        for block in self.blocks:
            weights = block.gates(maps)
            maps = block(maps)
            yield weights, maps

    def forward(self, images: Tensor) -> Tensor:  # (B, in_channels, H, W) -> (B, num_classes)
        return self.classifier(self.backbone(self.stem(images) if self.stem else images))
