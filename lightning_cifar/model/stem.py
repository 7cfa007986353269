"""WhiteningStem: a frozen first convolution that whitens image patches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError
from lightning_cifar.model.blocks import ACTIVATIONS, Activation
from lightning_cifar.model.flip_equivariance import halves


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
