"""Continuing training that early stopping has ended."""

from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class EndedEarly(Callback):
    """End a resumed run at once if early stopping had ended it, unless its patience was raised.

    Lightning would train another epoch, and restore the earlier patience.

    Args:
        callbacks: of the run, before their states are restored.
        resumes: a run is resumed; otherwise another one may start from its checkpoint.
    """

    def __init__(self, callbacks: Sequence[Callback], resumes: bool) -> None:
        self.patience = {one: one.patience for one in callbacks if isinstance(one, EarlyStopping)}
        self.resumes = resumes
        self.ended = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for one, patience in self.patience.items():
            if self.resumes and one.stopping_reason_message and patience <= one.patience:
                self.ended = True
            else:  # it trains on, and may end in another way
                one.stopped_epoch, one.stopping_reason_message = 0, None
            one.patience = patience
        if self.ended:
            trainer.should_stop = True
