"""Ensemble: several networks of one form, each trained as it would be alone, that answer together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Averages the logits of its members: images (B, C, H, W) to (B, num_classes).

    They start from different weights, which is what lets them err on different images (deep ensembles, Lakshminarayanan
    et al. 2017, arXiv 1612.01474). Training them by the loss of the average would take that away again: each needs its
    own, as `ImageClassifier` does it.

    Args:
        members: at least two networks.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(0)
