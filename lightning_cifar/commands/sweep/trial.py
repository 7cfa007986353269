"""TrialRun: one trial of ``sweep``, by the very command ``fit``, judged by its accuracy on the validation images."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from optuna import Trial

from lightning_cifar.commands.sweep.space import typed
from lightning_cifar.data.dataset import Dataset
from lightning_cifar.run.series import PartRun
from lightning_cifar.run.throughput import Throughput


class TrialRun(PartRun):
    """Trains with a trial's values, or goes on where that was stopped; `accuracy` says what came of it.

    The test images are never evaluated: where a recipe watches them, or none, validation images are kept back instead.

    Args:
        args: what `CommandLine` takes for ``fit``, less the searched options and the run directory.
        fixed: as the user has typed that, for the record.
        trial: of Optuna, its values drawn.
        directory: of this run.
        source: what another trial has read.
    """

    word, advice = "trial", "start the same sweep once for each device"

    def __init__(
        self, args: list[str], fixed: list[str], trial: Trial, directory: Path, source: Dataset | None = None
    ) -> None:
        self.pruning = Pruning(trial)
        super().__init__(args, fixed, typed(trial.params), directory, source, frozenset(trial.params))

    def before_instantiate_classes(self) -> None:
        settings = self.config["fit"]
        data, trainer = settings["data"], settings["trainer"]
        if data["held_out"] == "test" or trainer["limit_val_batches"] == 0:
            if self.source is None:
                print(
                    "a sweep chooses, and the recipe keeps no images back for that: here it does (--data.held_out val)"
                )
            data["held_out"] = "val"
            trainer["limit_val_batches"] = trainer["limit_val_batches"] or 1.0

    def callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        return [*super().callbacks(trainer), self.pruning]

    def fit(self, **kwargs: Any) -> None:
        self.train(**kwargs)
        self.epochs, self.pruned = self.trainer.current_epoch, self.pruning.pruned
        self.seconds: float = self.callback(Throughput).seconds
        # Once more: --trainer.max_steps ends an epoch before its validation.
        (measured,) = self.quiet_trainer().validate(self.model, self.datamodule, verbose=False)
        self.accuracy: float = measured["val/accuracy"]


class Pruning(Callback):
    """Tells Optuna the validation accuracy after each epoch, and ends training in order where it says so.

    Optuna's own callback (optuna-integration) raises in the midst of training, and knows no run that goes on.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial, self.pruned = trial, False
        self.known = {*trial.study.trials[trial.number].intermediate_values}  # by an earlier start of this trial

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if epoch not in self.known:
            self.known.add(epoch)
            self.trial.report(float(trainer.callback_metrics["val/accuracy"]), epoch)
        if epoch + 1 != trainer.max_epochs and self.trial.should_prune():  # after the last there is nothing to save
            self.pruned = trainer.should_stop = True
