"""Outputs: a network's outputs for a whole data set, gathered over batches and processes."""

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Outputs(Metric):
    """Logits (N, K), logits without test-time augmentation (N, K), and labels (N,), in the order of the updates."""

    full_state_update = False
    logits: list[Tensor]
    plain: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("logits", "plain", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, plain: Tensor, labels: Tensor) -> None:
        self.logits.append(logits)
        self.plain.append(plain)
        self.labels.append(labels)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        return dim_zero_cat(self.logits), dim_zero_cat(self.plain), dim_zero_cat(self.labels)
