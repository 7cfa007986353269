"""Validation at the end of training, wherever that is."""

from typing import Any

from lightning import Callback, Trainer


class FinalValidation(Callback):
    """Validate after the last step that ``max_steps`` allows, and after the last epoch, whatever epochs are validated.

    Otherwise the last weights have no validation accuracy, and a checkpoint would be given that of an earlier epoch.
    """

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        ends = 0 < trainer.max_steps <= trainer.global_step
        if trainer.check_val_every_n_epoch and (ends or trainer.current_epoch + 1 == trainer.max_epochs):
            trainer.check_val_every_n_epoch = 1
        if ends:
            trainer.should_stop = True  # Lightning then validates before it ends
            # Unless these are still to come, which max_steps does not wait for.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
