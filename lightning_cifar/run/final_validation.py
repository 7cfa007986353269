"""Validation at the end of a training that ``max_steps`` ends within an epoch."""

from typing import Any

from lightning import Callback, Trainer


class FinalValidation(Callback):
    """Validate after the last step that ``max_steps`` allows, as Lightning does after the last of ``max_time``.

    Otherwise the last weights have no validation accuracy, and a checkpoint would be given that of an earlier epoch.
    """

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # Lightning then validates before it ends
            # Unless these are still to come, which max_steps does not wait for.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
