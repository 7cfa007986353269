"""Test-time augmentation: the views of an image over which logits are averaged."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Tta = Literal["none", "mirror", "translate"]


def make_views(pixels: Tensor, tta: Tta, flip_equivariant: bool = False) -> list[tuple[float, Tensor]]:
    """Return weighted views of normalised images (B, C, H, W); weights sum to 1, and the first view is the image.

    ``mirror`` adds mirror images with the same weight. ``translate`` gives half of the weight to the images and half to
    copies moved by one pixel, up and left or down and right, and mirrors them all (cifar10-airbench). A
    ``flip_equivariant`` network has the same logits for mirror images, so they are left out.
    """
    weighted = [(1.0, pixels)]
    if tta == "translate":
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")
        weighted = [(0.5, pixels), (0.25, padded[..., :height, :width]), (0.25, padded[..., 2:, 2:])]
    if tta == "none" or flip_equivariant:
        return weighted
    return [(weight / 2, view) for weight, one in weighted for view in (one, one.flip(-1))]
