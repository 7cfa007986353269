"""Augmentation of whole batches: every image has its own draw, and draws are made apart from their application.

Images are (B, C, H, W) of any dtype and device. A plain per-image twin of each function lives in the tests.
"""

import torch
from torch import Tensor


def draw_flips(batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Which images to mirror: bool (B,), each with probability 1/2."""
    return torch.rand(batch, generator=generator) < 0.5


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors left to right the images that ``flips`` (B,) marks."""
    return torch.where(flips.to(images.device)[:, None, None, None], images.flip(-1), images)


def draw_offsets(batch: int, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """Top and left corner of each crop in its padded image: int64 (B, 2), uniform in [0, 2*padding]."""
    return torch.randint(2 * padding + 1, (batch, 2), generator=generator)


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Pads by reflection on all sides and cuts H x W at ``offsets`` (B, 2).

    No padded image is made: each output pixel is gathered from where the reflection leads; so ``padding`` must be
    less than H and W. The result is channels-last in memory.
    """
    rows = reflect(offsets[:, :1], images.shape[-2], padding).to(images.device)  # (B, H)
    columns = reflect(offsets[:, 1:], images.shape[-1], padding).to(images.device)  # (B, W)
    batch = torch.arange(len(images), device=images.device)
    return images[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def reflect(offset: Tensor, size: int, padding: int) -> Tensor:
    """Positions ``offset - padding ... + size - 1``, those outside [0, size) mirrored at the edge pixel; (B, size)."""
    position = offset - padding + torch.arange(size)
    return size - 1 - (size - 1 - position.abs()).abs()
