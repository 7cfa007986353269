"""WhiteningStem: a frozen first convolution that whitens image patches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError, check_range
from lightning_cifar.model.blocks import ACTIVATIONS, Activation
from lightning_cifar.model.flip_equivariance import pair_halves


class WhiteningStem(nn.Module):
    """Whitening convolution, optional bias and activation (tysam-code/hlb-CIFAR10): (B, C, H, W) to (B, K, H/s, W/s).

    Its filters, set by `whiten`, are the eigenvectors of the covariance of the patches, each with both signs:
    ``K = 2 * in_channels * kernel_size**2``. Images are padded, so that stride s = 1 keeps 32x32 pixels.

    Args:
        in_channels: C.
        kernel_size: side of a patch, at least 1; ``stride``: s, in [1, kernel_size].
        activation: ``relu`` or ``gelu``.
        bias: learn a bias. Without one, the first block needs no gradient of its input, the largest of all.
        flips: make each filter equal to its mirror image or to the negative of it, and pad both sides alike, so that an
            even kernel with stride 1 makes 31x31 pixels of 32x32. ``partner`` (K,) then pairs the channels (see
            `lightning_cifar.model.flip_equivariance`).
    """

    whitened: Tensor
    partner: Tensor | None

    def __init__(
        self, in_channels: int, kernel_size: int, stride: int, activation: Activation, bias: bool, flips: bool
    ) -> None:
        super().__init__()
        check_range("stem_stride", stride, f"[1, {kernel_size}]", whole=True)
        self.out_channels = 2 * in_channels * kernel_size**2
        self.conv = nn.Conv2d(in_channels, self.out_channels, kernel_size, stride, bias=bias)
        self.conv.weight.requires_grad_(False)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        spare = kernel_size - stride
        self.padding = (spare // 2, spare // 2 if flips else spare - spare // 2) * 2
        partner = None
        if flips:
            if stride > 1 and spare % 2:
                parity = "odd" if kernel_size % 2 else "even"
                raise InputError(f"flip_equivariant with stem_kernel {kernel_size} needs stem_stride 1 or {parity}")
            if bias:
                raise InputError("flip_equivariant needs a stem without bias: set stem_bias to false")
            # `find_mirror_eigenvectors` puts the filters first that are their mirror images.
            symmetric = in_channels * kernel_size * ((kernel_size + 1) // 2)
            channels, pairs = torch.arange(self.out_channels), pair_halves(self.out_channels)
            partner = torch.where(channels % (self.out_channels // 2) < symmetric, channels, pairs)
        self.register_buffer("partner", partner, persistent=False)
        self.activation = ACTIVATIONS[activation]
        self.register_buffer("whitened", torch.tensor(False))

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.conv(F.pad(images, self.padding)))

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the filters to whiten the patches of normalised images (N, C, H, W), unless they are already set.

        A few thousand images suffice. ``eps`` is added to the eigenvalues to bound the gain of faint directions.
        """
        if self.whitened:
            return
        size, shape = self.conv.kernel_size[0], self.conv.weight.shape[1:]
        if size > min(images.shape[2:]):
            raise InputError(f"stem_kernel must be at most the {min(images.shape[2:])} pixels of an image, got {size}")
        patches = images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        covariance = patches.T @ patches / len(patches)
        if self.partner is None:
            values, vectors = torch.linalg.eigh(covariance)
        else:
            values, vectors = find_mirror_eigenvectors(covariance, shape)
        filters = (vectors / (values + eps).sqrt()).T.reshape(-1, *shape)
        self.conv.weight.copy_(torch.cat([filters, -filters]))
        self.whitened.fill_(True)


def find_mirror_eigenvectors(covariance: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors (columns) of patches of ``shape`` (C, k, k) and their mirror images.

    The vectors that equal their mirror images come first, then those that equal the negatives of theirs.
    """
    mirror = torch.eye(len(covariance)).view(-1, *shape).flip(3).flatten(1)
    signs, sides = torch.linalg.eigh(mirror)  # sign 1: equal to the mirror image; -1: to its negative
    values, vectors = [], []
    for basis in (sides[:, signs > 0], sides[:, signs < 0]):
        some_values, coordinates = torch.linalg.eigh(basis.T @ covariance @ basis)
        values.append(some_values)
        vectors.append(basis @ coordinates)
    return torch.cat(values), torch.cat(vectors, 1)
