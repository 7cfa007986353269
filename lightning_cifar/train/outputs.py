"""Outputs: a network's outputs for a whole data set, gathered over batches and processes."""

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_cifar.errors import InputError
from lightning_cifar.train.objective import choose_classes


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

    def measure(self, loaders: int, augmented: bool) -> dict[str, Tensor]:
        """Return loss and accuracies by name; nothing without outputs, as where a subclass tests in its own way."""
        if not self.update_count:
            return {}
        if loaders > 1:
            raise InputError(f"test one loader at a time: the images of these {loaders} would be measured as one set")
        logits, plain, labels = self.compute()
        classes = choose_classes(labels)
        averaged, single = ((one.argmax(1) == classes).float().mean() for one in (logits, plain))
        found = {"test/loss": F.cross_entropy(logits, labels), "test/accuracy": averaged}
        return found | ({"test/accuracy_without_tta": single} if augmented else {})
