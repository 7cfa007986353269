"""Test-time augmentation: the views of an image over which logits are averaged."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Tta = Literal["none", "mirror", "translate"]


def views(pixels: Tensor, tta: Tta, flip_equivariant: bool = False) -> list[tuple[float, Tensor]]:
    """Weighted views of images (B, C, H, W); the weights sum to 1, and the first view is the image.

    Args:
        pixels: normalised images.
        tta: ``none``: the image. ``mirror``: also mirrored, each with weight 1/2. ``translate``: both, with half
            of the weight, and both moved by a pixel, up and left or down and right, with the other (cifar10-airbench).
        flip_equivariant: the network gives mirrored views the same logits, so that they are left out.
    """
    weighted = [(1.0, pixels)]
    if tta == "translate":
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")
        weighted = [(0.5, pixels), (0.25, padded[..., :height, :width]), (0.25, padded[..., 2:, 2:])]
    if tta == "none" or flip_equivariant:
        return weighted
    return [(weight / 2, view) for weight, one in weighted for view in (one, one.flip(-1))]
