"""One trial of ``sweep``: trained as ``fit`` does, then evaluated on the validation images."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning import Callback, LightningModule, Trainer
from optuna import Trial

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.commands.sweep.space import format_options, round_values
from lightning_cifar.commands.test import make_quiet_trainer
from lightning_cifar.data.dataset import Dataset
from lightning_cifar.run.job import Job, parse
from lightning_cifar.run.records.run_json import RunRecord
from lightning_cifar.run.records.throughput import Throughput
from lightning_cifar.run.series import list_resume_options, prepare, refuse_other_settings, train_in_series
from lightning_cifar.run.trainer import open_run

TRIAL = "trial"  # name of a run in this series


class Outcome(NamedTuple):
    """Result of a trial: validation accuracy in [0, 1], epochs, their seconds and all seconds, whether pruned."""

    accuracy: float
    epochs: int
    seconds: float
    fit_seconds: float
    pruned: bool
    source: Dataset


def run_trial(
    args: Sequence[str], typed: Sequence[str], trial: Trial, directory: Path, source: Dataset | None
) -> Outcome:
    """Train a trial, whose values are drawn, or resume it, and return its result; the test images are never evaluated.

    ``args`` and ``typed`` are those of `Search`, without the searched options and the run directory; ``source`` is the
    dataset, if an earlier trial has read it.
    """
    values = format_options(round_values(trial))
    job = hold_out([*args, *values, *list_resume_options(directory)], ["fit", *typed, *values], announce=source is None)
    job.data.loaded = source
    prepare(job, directory.parent, TRIAL, "start the same command once for each device", trial.params)
    pruning = Pruning(trial)
    with open_run(job, directory, [pruning], epoch_rows=False) as run:
        train_in_series(job, run)
        epochs, seconds = run.trainer.current_epoch, find_callbacks(run.trainer, Throughput)[0].seconds
        fit_seconds = find_callbacks(run.trainer, RunRecord)[0].fit_seconds
        # Validate again: with --trainer.val_check_interval, the last weights may have had no validation.
        (measured,) = make_quiet_trainer(job, run).validate(job.model, job.data, verbose=False)
        return Outcome(measured["val/accuracy"], epochs, seconds, fit_seconds, pruning.pruned, job.data.dataset)


def refuse_other_options(args: Sequence[str], typed: Sequence[str], run_dir: Path, searched: Collection[str]) -> None:
    """Raise `InputError` if options differ from those of the trials in ``run_dir``, but for the ``searched`` ones."""
    refuse_other_settings(hold_out(args, ["fit", *typed], announce=False), run_dir, TRIAL, searched)


def hold_out(args: Sequence[str], typed: Sequence[str], announce: bool) -> Job:
    """Parse the options of a trial, and hold out validation images if its recipe holds out none."""
    job = parse(args, typed)
    if job.selects_by_validation:
        return job
    if announce:
        print("the recipe holds out no validation images: this sweep sets --data.held_out val")
    limit = [] if job.trainer["limit_val_batches"] != 0 else ["--trainer.limit_val_batches", "1.0"]
    return parse([*args, "--data.held_out", "val", *limit], typed)


class Pruning(Callback):
    """Report the validation accuracy to Optuna after each epoch, and stop training if Optuna prunes the trial.

    Optuna's callback (optuna-integration) raises an exception during training, and cannot resume a run.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial, self.pruned = trial, False
        self.known = {*trial.study.trials[trial.number].intermediate_values}  # reported before the trial was stopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if epoch not in self.known:
            self.known.add(epoch)
            self.trial.report(float(trainer.callback_metrics["val/accuracy"]), epoch)
        ends = trainer.should_stop or epoch + 1 == trainer.max_epochs  # pruning would save no time
        if not ends and self.trial.should_prune():
            self.pruned = trainer.should_stop = True
