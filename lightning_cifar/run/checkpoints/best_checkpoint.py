"""``best.ckpt``: the weights of the epoch with the highest validation accuracy."""

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_cifar.run.checkpoints.checkpoint_files import BEST


class BestCheckpoint(ModelCheckpoint):
    """Keep the epoch with the highest validation accuracy, and of equal ones the latest, which has trained longest.

    Lightning keeps the first. With few validation images, all may be classified right from the first epoch on.
    """

    def __init__(self) -> None:
        name = Path(BEST).stem
        super().__init__(filename=name, monitor="val/accuracy", mode="max", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """Key of Lightning's class, which wrote the checkpoints of earlier versions."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def check_monitor_top_k(self, trainer: Trainer, current: Any = None) -> bool:
        best = self.best_k_models.get(self.kth_best_model_path)
        equal = current is not None and best is not None and bool(current == best)
        return equal or super().check_monitor_top_k(trainer, current)
