"""Resuming a run that early stopping has ended."""

from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class EndedEarly(Callback):
    """End a resumed run at once if early stopping had ended it, unless its patience was raised.

    Lightning would train another epoch, and restore the earlier patience.

    Args:
        callbacks: of the run, before their states are restored.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.patience = {one: one.patience for one in callbacks if isinstance(one, EarlyStopping)}
        self.ended = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for one, patience in self.patience.items():
            self.ended |= one.stopped_epoch > 0 and patience <= one.patience
            one.patience = patience
        trainer.should_stop = self.ended
