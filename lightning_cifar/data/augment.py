"""Batched augmentation and normalisation with independent random draws for each image.

Draws and their application are separate functions. Draws are made on the CPU, so they do not depend on the device of
the images. They are applied on that device, without a copy from the host, so that a CUDA graph can record it. Images
are (B, C, H, W), of any dtype; results are channels-last, and channels-last inputs are fastest. The functions work on
rows of W*C values, which are contiguous and long enough for vector instructions. The tests compare each function with a
plain loop over images.
"""

import torch
from torch import Tensor

from lightning_cifar.errors import InputError


def draw_flips(batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw which images to mirror: bool (B,), each with probability 1/2."""
    return torch.rand(batch, generator=generator) < 0.5


def draw_offsets(batch: int, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw the top and left edge of each crop in its padded image: int64 (B, 2), uniform in [0, 2*padding]."""
    return torch.randint(2 * padding + 1, (batch, 2), generator=generator)


def draw_centres(batch: int, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw the row and column of each cutout centre: int64 (B, 2), uniform over the pixels of an image."""
    return (torch.rand(batch, 2, generator=generator) * torch.tensor([height, width])).long()


def flip_crop(images: Tensor, flips: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Mirror the images marked in ``flips`` (B,), pad all by reflection and crop them at ``offsets`` (B, 2).

    ``padding`` must be less than H and W. Each row is stored next to its mirror image in one padded strip. Every row of
    the result, mirrored or not, is then W consecutive pixels of a strip, and vertical padding is a choice of rows.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
    batch, height, width, channels = pixels.shape
    mirrored = pixels.flip(2)
    before, after = mirrored[:, :, width - 1 - padding : width - 1], pixels[:, :, 1 : padding + 1]
    strips = torch.cat([before, pixels, mirrored[:, :, 1:], after], 2)  # (B, H, 2*W - 1 + 2*padding, C)
    rows = offsets[:, :1] - padding + torch.arange(height, device=images.device)
    rows = height - 1 - (height - 1 - rows.abs()).abs()  # (B, H), reflected into [0, H)
    rows += height * torch.arange(batch, device=images.device)[:, None]
    starts = rows * strips.shape[2] + (offsets[:, 1] + (width - 1) * flips)[:, None]
    windows = strips.flatten().unfold(0, width * channels, channels)  # a view: the W pixels from each pixel on
    return windows.index_select(0, starts.flatten()).view(pixels.shape).permute(0, 3, 1, 2)


def cutout(images: Tensor, centres: Tensor, size: int, fill: Tensor) -> Tensor:
    """Fill a square of side ``size`` around ``centres`` (B, 2), clipped at the edges, with ``fill`` (C,).

    Cutout, arXiv 1708.04552. If ``size`` is even, the centre is the pixel below and right of the middle. ``fill`` must
    have the dtype of the images.
    """
    height, width = images.shape[-2:]
    first = centres - size // 2
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows = ((row >= first[:, :1]) & (row < first[:, :1] + size)).to(images.dtype)  # (B, H)
    in_columns = ((column >= first[:, 1:]) & (column < first[:, 1:] + size)).to(images.dtype)  # (B, W)
    # Products with 0 and 1 are exact, and five times as fast as torch.where on a CPU.
    hole = in_rows[:, :, None] * in_columns.repeat_interleave(len(fill), 1)[:, None]  # (B, H, W*C)
    return from_rows(to_rows(images) * (1 - hole) + fill.repeat(width) * hole, len(fill))


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return ``(pixels - mean) / std`` in the dtype of ``mean`` (C,); images are uint8 or floats in [0, 1]."""
    width = images.shape[-1]
    scale, shift = 1 / std, -mean / std
    if not images.is_floating_point():
        scale = scale / 255
    rows = to_rows(images).to(mean.dtype, copy=True)  # then in place: allocation costs more than arithmetic
    return from_rows(rows.mul_(scale.repeat(width)).add_(shift.repeat(width)), len(mean))


def check_images(images: Tensor, channels: int) -> None:
    """Raise `InputError` unless images are (B, channels, H, W), integers in [0, 255] or floats in [0, 1].

    Floats may be outside by the overshoot of a resize. Nothing is checked while exporting or recording a CUDA graph.
    """
    if torch.compiler.is_compiling():
        return
    suits = isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == channels and images.numel()
    if not suits or images.dtype == torch.bool:
        found = f"{images.dtype} {[*images.shape]}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images must be a tensor (B, {channels}, H, W), uint8 or floats in [0, 1], got {found}")
    if images.dtype == torch.uint8 or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    floats = images.is_floating_point()
    low, high = (images if floats else images.long()).aminmax()
    if not (low > -0.1 and high <= (1.1 if floats else 255)):
        found = f"{'floats' if floats else images.dtype} from {low:.3g} to {high:.3g}"
        remedy = "divide pixels of 0 to 255 by 255, and do not normalise them, which the model does"
        raise InputError(f"images must be uint8 or floats in [0, 1], got {found}: {remedy}")


def to_rows(images: Tensor) -> Tensor:
    """Reshape (B, C, H, W) to (B, H, W*C): a view of channels-last images."""
    return images.permute(0, 2, 3, 1).flatten(2)


def from_rows(rows: Tensor, channels: int) -> Tensor:
    """Reshape (B, H, W*C) to (B, C, H, W), channels-last in memory."""
    return rows.unflatten(2, (-1, channels)).permute(0, 3, 1, 2)
