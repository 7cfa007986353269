"""Ensemble: several networks of one architecture whose logits are averaged."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Average the logits of at least two members: images (B, C, H, W) to (B, num_classes).

    Deep ensembles (Lakshminarayanan et al. 2017, arXiv 1612.01474): members that start from different weights err on
    different images. This holds only if each is trained by its loss and not by the loss of the average; see
    `Objective.sum_losses`.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(0)
