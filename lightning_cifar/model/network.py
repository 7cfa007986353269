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
from lightning_cifar.model.blocks import ACTIVATIONS, Activation, GatedBlock, Step
from lightning_cifar.model.flips import FlipMean, halves
from lightning_cifar.model.gates import GateName
from lightning_cifar.model.together import Dropout

GlobalPool = Literal["average", "max"]
BLOCKS = 5


class WhiteningStem(nn.Module):
    """A frozen convolution that whitens image patches, perhaps a learned bias, an activation (tysam-code/hlb-CIFAR10).

    Every eigenvector of the patches' covariance is there with both signs: ``2 * in_channels * kernel_size**2``
    channels. Images are padded so that 32x32 pixels stay 32x32, or become 32/stride.

    Args:
        in_channels: colour channels of the images.
        kernel_size: of the patches, at least 1.
        stride: of the convolution, in [1, kernel_size].
        activation: see `GatedBlock`.
        bias: learn one. Without it, no gradient is needed on the way into the first block, the costliest of all.
        flip_equivariant: make each filter its own mirror image, or that of its negative, and pad both sides alike: with
            an even size and stride 1, 32x32 pixels become 31x31. ``partner`` then says which is which (see `flips`).

    Raises:
        InputError: a stride that cannot be the same from both sides.
    """

    whitened: Tensor
    partner: Tensor | None

    def __init__(
        self,
        in_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: Activation = "relu",
        bias: bool = True,
        flip_equivariant: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= stride <= kernel_size:
            raise InputError(f"stem_stride must be in [1, stem_kernel], got {stride} of {kernel_size}")
        self.out_channels = 2 * in_channels * kernel_size**2
        self.conv = nn.Conv2d(in_channels, self.out_channels, kernel_size, stride, bias=bias)
        self.conv.weight.requires_grad_(False)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        spare = kernel_size - stride
        self.padding = (spare // 2, spare - spare // 2) * 2
        partner = None
        if flip_equivariant:
            if stride > 1 and spare % 2:
                raise InputError(
                    f"a flip-equivariant stem of kernel {kernel_size} needs stride 1, or one that is "
                    f"{'odd' if kernel_size % 2 else 'even'} too, got {stride}"
                )
            if bias:
                raise InputError("a flip-equivariant stem has no bias: set stem_bias to false")
            self.padding = (spare // 2,) * 4
            # Sorted by `mirrored_eigenvectors`: first those that are their own mirror images.
            own = in_channels * kernel_size * ((kernel_size + 1) // 2)
            channels = torch.arange(self.out_channels)
            partner = torch.where(channels % (self.out_channels // 2) < own, channels, halves(self.out_channels))
        self.register_buffer("partner", partner, persistent=False)
        self.activation = ACTIVATIONS[activation]
        self.register_buffer("whitened", torch.tensor(False))

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W) -> (B, out_channels, H/stride, W/stride)
        return self.activation(self.conv(F.pad(images, self.padding)))

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Sets the filters to whiten the patches of these normalised images (N, C, H, W); done once, then kept.

        Args:
            images: a few thousand suffice.
            eps: added to the eigenvalues, in units of the images' variance: faint directions are not blown up.
        """
        if self.whitened:
            return
        size = self.conv.kernel_size[0]
        patches = images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        covariance = patches.T @ patches / len(patches)
        if self.partner is None:
            values, vectors = torch.linalg.eigh(covariance)
        else:
            values, vectors = mirrored_eigenvectors(covariance, self.conv.weight.shape[1:])
        filters = (vectors / (values + eps).sqrt()).T.reshape(-1, *self.conv.weight.shape[1:])
        self.conv.weight.copy_(torch.cat([filters, -filters]))
        self.whitened.fill_(True)


def mirrored_eigenvectors(covariance: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of patches (C, k, k) and their mirror images: those that equal theirs, then the others.

    The others are the negatives of their mirror images.
    """
    mirror = torch.eye(len(covariance)).view(-1, *shape).flip(3).flatten(1)
    signs, sides = torch.linalg.eigh(mirror)  # the patches that mirroring takes to themselves, or to their negatives
    values, vectors = [], []
    for basis in (sides[:, signs > 0], sides[:, signs < 0]):
        found, coordinates = torch.linalg.eigh(basis.T @ covariance @ basis)
        values.append(found)
        vectors.append(basis @ coordinates)
    return torch.cat(values), torch.cat(vectors, 1)


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
