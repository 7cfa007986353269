"""Averages of the weights that would never begin."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.errors import InputError, format_count


class AverageStart(Callback):
    """Refuse an average that begins after the last step: Lightning would end with the weights from before training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        averages = find_callbacks(trainer, EMAWeightAveraging)
        for start in (one.update_starting_at_step or 0 for one in averages if one.update_starting_at_epoch is None):
            if start >= (total := trainer.estimated_stepping_batches):
                ends = f"training ends after {format_count(int(total), 'step')}"
                raise InputError(f"update_starting_at_step {start:,}: {ends}; set a lower one")
