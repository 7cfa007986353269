"""FiveBlockNet: an optional stem, five gated blocks and a classifier. The defaults are the report's network."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError, check_choice, check_flag, check_list, check_range
from lightning_cifar.model.blocks import Activation, GatedBlock, Step
from lightning_cifar.model.flip_equivariance import FlipMean, pair_halves
from lightning_cifar.model.gates import GateName
from lightning_cifar.model.parallel import Dropout
from lightning_cifar.model.stem import WhiteningStem

GlobalPool = Literal["average", "max"]
BLOCKS = 5
# Defaults of Backbone and of FiveBlockNet.
WIDTHS = (32, 64, 128, 256, 256)
KERNEL_SIZES = (3, 3, 3)
ORDER: tuple[Step, ...] = ("activation", "sum", "norm", "pool")
POOLS = (True,) * BLOCKS
DEPTHS = (0,) * BLOCKS


class Backbone(nn.Sequential):
    """Five gated blocks, (B, in_channels, H, W) to (B, widths[4], H/2**p, W/2**p), rounded up, if p blocks pool.

    ``partner`` and ``block`` are arguments of `GatedBlock`, the others those of `FiveBlockNet`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        kernel_sizes: Sequence[int] = KERNEL_SIZES,
        order: Sequence[Step] = ORDER,
        pools: Sequence[bool] = POOLS,
        depths: Sequence[int] = DEPTHS,
        partner: Tensor | None = None,
        **block: Any,
    ) -> None:
        for name, values in (("widths", widths), ("pools", pools), ("depths", depths)):
            check_list(name, values)
            if len(values) != BLOCKS:
                raise InputError(f"{name} must have one value for each of five blocks, got {list(values)}")
        for width, pool, depth in zip(widths, pools, depths, strict=True):
            check_range("widths", width, "[1, inf)", whole=True)
            check_flag("pools", pool)
            check_range("depths", depth, "[0, inf)", whole=True)
        blocks = []
        for width, pool, depth in zip(widths, pools, depths, strict=True):
            steps = [step for step in order if pool or step != "pool"]
            blocks.append(GatedBlock(in_channels, width, kernel_sizes, steps, depth=depth, partner=partner, **block))
            in_channels = width
            partner = None if partner is None else pair_halves(width)
        super().__init__(*blocks)


class GlobalMaxPool(nn.Module):
    """Maximum of each map, (B, K, H, W) to (B, K, 1, 1); torch's adaptive max pool is not deterministic on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, (x.shape[2], x.shape[3]))


class FiveBlockNet(nn.Module):
    """Map images (B, in_channels, H, W) to logits (B, num_classes).

    Args:
        num_classes: number of logits.
        in_channels: colour channels of the images.
        widths: output channels of the five blocks.
        kernel_sizes: odd sizes of the parallel convolutions of every block.
        order: steps after the convolutions of a block: ``activation``, gated ``sum``, ``norm``, ``pool``.
        pools: which of the five blocks pool.
        depths: number of residual 3x3 convolutions at the end of each block.
        activation: ``relu`` or ``gelu``, of blocks and stem.
        bias: whether the blocks' convolutions have a bias; batch norm right after them cancels it.
        dirac: start the first filters of each block's first convolution as the identity (arXiv 1706.00388).
        norm_scale: learn the scale of batch norm, not only its shift.
        norm_momentum: weight in (0, 1] of the newest batch in batch norm's running statistics.
        gate: of `Gate`; ``relu`` as in the course report.
        temperature: of the softmax gate, above 0.
        stem_kernel: patch size of a frozen whitening convolution before the blocks; 0: no stem.
        stem_stride: stride of the stem, in [1, stem_kernel].
        stem_bias: whether the stem learns a bias.
        global_pool: ``average`` or ``max`` over the last block's pixels.
        hidden: width of the classifier's hidden layer; 0: one linear layer without bias instead of the MLP.
        dropout: probability in [0, 1) of dropping a hidden unit while training.
        flip_equivariant: give an image and its mirror image the same logits, by filters in mirrored pairs: half the
            parameters for the same work. ``widths`` must be even.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        kernel_sizes: Sequence[int] = KERNEL_SIZES,
        order: Sequence[Step] = ORDER,
        pools: Sequence[bool] = POOLS,
        depths: Sequence[int] = DEPTHS,
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
        check_range("num_classes", num_classes, "[1, inf)", whole=True)
        check_range("in_channels", in_channels, "[1, inf)", whole=True)
        check_range("stem_kernel", stem_kernel, "[0, inf)", whole=True)
        check_range("hidden", hidden, "[0, inf)", whole=True)
        check_range("dropout", dropout, "[0, 1)")
        check_choice("global_pool", global_pool, GlobalPool)
        check_flag("stem_bias", stem_bias)
        check_flag("flip_equivariant", flip_equivariant)
        self.flip_equivariant = flip_equivariant
        self.stem, channels = None, in_channels
        partner = torch.arange(in_channels) if flip_equivariant else None  # each colour is the mirror twin of itself
        if stem_kernel:
            self.stem = WhiteningStem(in_channels, stem_kernel, stem_stride, activation, stem_bias, flip_equivariant)
            channels, partner = self.stem.out_channels, self.stem.partner
        block = {"activation": activation, "bias": bias, "dirac": dirac, "gate": gate, "temperature": temperature}
        block |= {"norm_scale": norm_scale, "norm_momentum": norm_momentum}
        self.backbone = Backbone(channels, widths, kernel_sizes, order, pools, depths, partner, **block)
        pool = GlobalMaxPool() if global_pool == "max" else nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(pool, nn.Flatten(), *([FlipMean()] if flip_equivariant else []))
        features = widths[-1] // 2 if flip_equivariant else widths[-1]
        if hidden:
            layers = (nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, num_classes))
            self.classifier.extend(layers)
        else:
            self.classifier.append(head := nn.Linear(features, num_classes, bias=False))
            nn.init.normal_(head.weight, std=1 / features)  # logits near 0: no class is preferred at first

    @property
    def blocks(self) -> list[GatedBlock]:
        return [block for block in self.backbone if isinstance(block, GatedBlock)]

    def iterate_blocks(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each block's gates (B, N, 1 or K) and its output (B, K, H, W) for images (B, in_channels, H, W)."""
        maps = self.stem(images) if self.stem is not None else images
        for block in self.blocks:
            gates, maps = block.compute_gates(maps), block(maps)
            yield gates, maps

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(self.stem(images) if self.stem is not None else images))
