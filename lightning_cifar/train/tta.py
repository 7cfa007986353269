"""Test-time augmentation: the views of an image over which logits are averaged."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Tta = Literal["none", "mirror", "translate"]


def views(pixels: Tensor, tta: Tta) -> list[tuple[float, Tensor]]:
    """Weighted views of images (B, C, H, W); the weights sum to 1.

    Args:
        pixels: normalised images.
        tta: ``none``: the image. ``mirror``: also mirrored, each with weight 1/2. ``translate``: both, with half
            of the weight, and both moved by a pixel, up and left or down and right, with the other (cifar10-airbench).
    """
    if tta == "none":
        return [(1.0, pixels)]
    both = [(0.5, pixels), (0.5, pixels.flip(-1))]
    if tta == "mirror":
        return both
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")
    moved = [padded[..., :height, :width], padded[..., 2:, 2:]]
    return [(weight / 2, view) for weight, view in both] + [
        (0.125, view) for corner in moved for view in (corner, corner.flip(-1))
    ]
