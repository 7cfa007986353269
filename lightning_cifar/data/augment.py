"""Augmentation and normalisation of whole batches: every image has its own draw, made apart from its application.

Images are (B, C, H, W) on any device, of any dtype where nothing else is said; fastest, and returned, channels-last in
memory. Draws are made on the CPU, so that they are the same wherever the images are. Every function works on rows of
W*C values, the longest piece that neighbours share, copied whole and long enough for vector instructions; a plain
per-image twin of each lives in the tests.
"""

import torch
from torch import Tensor


def draw_flips(batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Which images to mirror: bool (B,), each with probability 1/2."""
    return torch.rand(batch, generator=generator) < 0.5


def draw_offsets(batch: int, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """Top and left corner of each crop in its padded image: int64 (B, 2), uniform in [0, 2*padding]."""
    return torch.randint(2 * padding + 1, (batch, 2), generator=generator)


def draw_centres(batch: int, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Row and column of each hole's centre: int64 (B, 2), uniform over the image's pixels."""
    return (torch.rand(batch, 2, generator=generator) * torch.tensor([height, width])).long()


def flip_crop(images: Tensor, flips: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Mirrors left to right the images that ``flips`` (B,) marks, pads all by reflection, cuts at ``offsets`` (B, 2).

    ``padding`` must be less than H and W. One strip holds each row beside its mirror image, padded, so that every row
    of the result, mirrored or not, is W pixels in sequence of a strip; rows above and below are found by index.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
    batch, height, width, channels = pixels.shape
    flips, offsets = flips.to(images.device, non_blocking=True), offsets.to(images.device, non_blocking=True)
    mirrored = pixels.flip(2)
    before, after = mirrored[:, :, width - 1 - padding : width - 1], pixels[:, :, 1 : padding + 1]
    strips = torch.cat([before, pixels, mirrored[:, :, 1:], after], 2)  # (B, H, 2*W - 1 + 2*padding, C)
    rows = offsets[:, :1] - padding + torch.arange(height, device=images.device)
    rows = height - 1 - (height - 1 - rows.abs()).abs()  # (B, H), reflected into [0, H)
    rows += height * torch.arange(batch, device=images.device)[:, None]
    starts = rows * strips.shape[2] + (offsets[:, 1] + (width - 1) * flips)[:, None]
    windows = strips.flatten().unfold(0, width * channels, channels)  # W pixels from every pixel on; a view
    return windows.index_select(0, starts.flatten()).view(pixels.shape).permute(0, 3, 1, 2)


def cutout(images: Tensor, centres: Tensor, size: int, fill: Tensor) -> Tensor:
    """Paints a square of ``size`` pixels around ``centres`` (B, 2), cut off at the edges, in the colour ``fill`` (C,).

    arXiv 1708.04552. Of an even size the centre is the pixel right below the middle. ``fill`` has the images' dtype.
    """
    height, width = images.shape[-2:]
    centres, fill = centres.to(images.device, non_blocking=True), fill.to(images.device, non_blocking=True)
    first = centres - size // 2
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows = ((row >= first[:, :1]) & (row < first[:, :1] + size)).to(images.dtype)  # (B, H)
    in_columns = ((column >= first[:, 1:]) & (column < first[:, 1:] + size)).to(images.dtype)  # (B, W)
    # Products with 0 and 1, exact; on a CPU five times as fast as torch.where.
    hole = in_rows[:, :, None] * in_columns.repeat_interleave(len(fill), 1)[:, None]  # (B, H, W*C)
    return from_rows(to_rows(images) * (1 - hole) + fill.repeat(width) * hole, len(fill))


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``(pixels - mean) / std`` per channel of uint8 images, or of floats in [0, 1], in the dtype of ``mean`` (C,)."""
    width = images.shape[-1]
    scale, shift = 1 / std, -mean / std
    if not images.is_floating_point():
        scale = scale / 255
    rows = to_rows(images).to(mean.dtype, copy=True)  # in place from here: fresh memory costs more than arithmetic
    return from_rows(rows.mul_(scale.repeat(width)).add_(shift.repeat(width)), len(mean))


def to_rows(images: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W*C); a view of channels-last images."""
    return images.permute(0, 2, 3, 1).flatten(2)


def from_rows(rows: Tensor, channels: int) -> Tensor:
    """(B, H, W*C) to (B, C, H, W), channels-last in memory."""
    return rows.unflatten(2, (-1, channels)).permute(0, 3, 1, 2)
