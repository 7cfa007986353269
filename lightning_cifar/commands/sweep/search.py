"""The search: runs trials of an Optuna study until there are enough, then reports the results."""

import shlex
import time
from pathlib import Path
from random import Random
from typing import Any

from optuna import Trial, TrialPruned
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from lightning_cifar.commands.sweep.space import (
    Space,
    contains,
    describe_range,
    draw_values,
    format_options,
    list_combinations,
)
from lightning_cifar.commands.sweep.study import (
    count_trials,
    explain_database_errors,
    list_trials,
    open_study,
    requeue_trial,
    silence_experimental,
    write_csv,
    write_plots,
)
from lightning_cifar.commands.sweep.trial import refuse_other_options, run_trial
from lightning_cifar.data.dataset import Dataset
from lightning_cifar.errors import DivergenceError, InputError, reason
from lightning_cifar.files import write_json
from lightning_cifar.run.console.columns import align_columns
from lightning_cifar.run.process.exit_status import is_about_input, is_out_of_memory
from lightning_cifar.run.series import explain_stop
from lightning_cifar.run.settings.shell import format_command
from lightning_cifar.sources.locks import LONGEST_WAIT, acquire

MAX_ROWS = 10  # of the printed table
FEW = 100  # combinations of values, which are tried in random order, each once


class Search:
    """Search of one process; processes with the same study share the trials.

    Args:
        fit: ``fit`` and the options of all trials, as `layer` returns them.
        typed: these options as the user typed them.
        space: the values to search.
        file: database of the study, new or existing, in the directory of the sweep.
        pruning: stop trials that are below the median.
    """

    def __init__(self, fit: list[str], typed: list[str], space: Space, file: Path, pruning: bool) -> None:
        self.fit, self.typed, self.space, self.file, self.run_dir = fit, typed, space, file, file.parent
        self.combinations = list_combinations(space, FEW)  # none if there are more
        self.source: Dataset | None = None  # read by the first trial
        self.has_trained = False  # a trial of this process was trained
        self.trial: int | None = None  # number of the running trial
        self.awaited: list[int] = []
        # Only one process at a time opens the study, or counts trials and starts another.
        waited = f"waited an hour for another process of the sweep in {self.run_dir}"
        if (lock := acquire(self.run_dir / ".turn", LONGEST_WAIT, waited)) is None:
            raise InputError(f"--run_dir {self.run_dir}: no lock can be made in it; name another directory")
        self.lock = lock
        ranges = {name: describe_range(searched) for name, searched in space.items()}
        try:
            self.study = open_study(file, ranges, pruning)
        finally:
            lock.release()
        print(f"run directory: {self.run_dir}")
        for name, values in ranges.items():
            print(f"searching {name}: {values}")

    def run(self, n_trials: int, known: dict[str, Any]) -> None:
        """Train until ``n_trials`` trials of all processes have ended, earlier ones included; then report the results.

        The first trial has the values without a search, which are ``known``, if the space contains them.
        """
        if 0 < (count := len(self.combinations)) < n_trials:
            print(f"trials: {count}, one for each combination of values; --n_trials {n_trials} allows more")
        with explain_stop(self.describe_place, self.run_dir), explain_database_errors(self.file):
            with self.lock:
                self.enqueue_first(known)
            while self.advance(n_trials):
                self.trial = None
            if not self.has_trained:  # otherwise its trials compared the settings
                refuse_other_options(self.fit, self.typed, self.run_dir, self.space)
            with self.lock:  # several processes may finish together
                self.report()

    def describe_place(self) -> str:
        return "between two trials" if self.trial is None else f"in trial {self.trial}"

    def enqueue_first(self, known: dict[str, Any]) -> None:
        inside = all(name in known and contains(searched, known[name]) for name, searched in self.space.items())
        if inside and not self.study.trials:
            self.study.enqueue_trial({name: known[name] for name in self.space})

    def advance(self, n_trials: int) -> bool:
        """Train one trial, or wait a second for those of other processes; return False if all have ended."""
        with self.lock:
            ended, running = count_trials(self.study)
            if (untried := self.count_untried()) is not None:
                n_trials = min(n_trials, ended + len(running) + untried)
            if ended >= n_trials:
                return False
            if ended + len(running) < n_trials:
                with silence_experimental():
                    # constant_liar: running trials count as poor, so that no two processes try the same values.
                    self.study.sampler = TPESampler(seed=len(self.study.trials), constant_liar=True)
                try:
                    self.study.optimize(self.train, n_trials=1)
                except BaseException as stop:
                    if self.trial is not None and not self.has_bad_values(stop):
                        requeue_trial(self.study, self.trial)
                    raise
                self.write_trials()  # if the sweep is stopped later, its results so far are there
                return True
        if running != self.awaited:
            print(f"waiting for trials of other processes: {', '.join(map(str, running))}", flush=True)
            self.awaited = running
        time.sleep(1)
        return True

    def count_untried(self) -> int | None:
        """Return how many values are left to try, of a space of few, and queue one of them; None for other spaces.

        The sampler would try some of few values again and again.
        """
        if not self.combinations:
            return None
        trials = self.study.get_trials(deepcopy=False)
        queued = [one.params or one.system_attrs["fixed_params"] for one in trials if one.state == TrialState.WAITING]
        tried = [one.params for one in trials if one.state != TrialState.WAITING]
        left = [*queued, *(one for one in self.combinations if one not in (*queued, *tried))]
        if left and not queued:
            self.study.enqueue_trial(Random(len(trials)).choice(left))
        return len(left)

    def train(self, trial: Trial) -> float:
        """Train a trial that Optuna has started, and return its validation accuracy; `TrialPruned` if it has none."""
        self.trial = trial.number
        values = shlex.join(format_options(draw_values(trial, self.space)))
        self.lock.release()
        directory = trial.user_attrs.get("directory", f"trial{trial.number}")  # a resumed trial keeps its directory
        trial.set_user_attr("directory", directory)
        print(f"trial {trial.number}: {values}", flush=True)
        try:
            outcome = run_trial(self.fit, self.typed, trial, self.run_dir / directory, self.source)
        except Exception as error:
            if (why := self.classify_failure(error)) is None:
                raise
            trial.set_user_attr("ended", why)
            print(f"trial {trial.number}: {why}: {reason(error)}", flush=True)
            raise TrialPruned from error
        self.source, self.has_trained = outcome.source, True
        self.study.set_user_attr("typed", self.typed)  # all trials have the same settings
        trial.set_user_attr("epochs", outcome.epochs)
        trial.set_user_attr("train_seconds", round(outcome.seconds, 2))
        trial.set_user_attr("fit_seconds", round(outcome.fit_seconds, 2))
        result = f"validation accuracy {outcome.accuracy:.2%}, fit time {outcome.fit_seconds:.1f} s"
        if outcome.pruned:
            print(f"trial {trial.number}: pruned after epoch {outcome.epochs}: {result}", flush=True)
            raise TrialPruned
        print(f"trial {trial.number}: {result}", flush=True)
        return outcome.accuracy

    def classify_failure(self, error: Exception) -> str | None:
        """Return how a trial ended if its values caused the error; None if the sweep must end."""
        if isinstance(error, DivergenceError) or is_out_of_memory(error):
            self.has_trained = True
            return "diverged" if isinstance(error, DivergenceError) else "out of memory"
        # Bad input in the first trial is likely to be in every trial.
        return "refused" if self.has_trained and is_about_input(error) else None

    def has_bad_values(self, stop: BaseException) -> bool:
        """Return whether the running trial ended before it began, in a sweep whose options work with other values."""
        if not isinstance(stop, InputError) or "typed" not in self.study.user_attrs:
            return False
        directory = self.study.trials[self.trial or 0].user_attrs.get("directory", f"trial{self.trial}")
        return not (self.run_dir / directory / "config.yaml").exists()

    def write_trials(self) -> tuple[list[dict[str, Any]], str | None]:
        """Write ``sweep.json`` and ``trials.csv``; return the trials and the best one's command."""
        trials = list_trials(self.study)
        best = trials[0]
        command = None
        if best["ended"] == "complete":
            typed = self.study.user_attrs["typed"]  # options of the trained trials; those of this command may differ
            command = format_command("fit", *typed, *format_options(best["values"]))
        write_json(
            self.run_dir / "sweep.json",
            {"space": self.study.user_attrs["space"], "n": len(trials), "fit": command, "trials": trials},
        )
        write_csv(self.run_dir / "trials.csv", trials)
        return trials, command

    def report(self) -> None:
        """Write the trials and the plots; print the table and the command of the best trial."""
        trials, command = self.write_trials()
        rows = map(format_row, trials[:MAX_ROWS])
        print(align_columns([["trial", *self.space, "accuracy, %", "epochs", "training, s", "fit, s", ""], *rows]))
        if len(trials) > MAX_ROWS:
            print(f"and {len(trials) - MAX_ROWS} more: {self.run_dir / 'trials.csv'}")
        for file in (self.run_dir / "sweep.json", *write_plots(self.study, self.run_dir)):
            print(f"{file.stem}: {file}")
        if command is None:
            print("no trial was completed: try other values for --search")
        else:
            print(f"best trial: {trials[0]['trial']}\n{command}")


def format_row(trial: dict[str, Any]) -> list[str]:
    accuracy = "-" if trial["accuracy"] is None else f"{100 * trial['accuracy']:.2f}"
    times = ["-" if trial[name] is None else f"{trial[name]:.1f}" for name in ("train_seconds", "fit_seconds")]
    ended = "" if trial["ended"] == "complete" else trial["ended"]
    values = map(str, trial["values"].values())
    return [str(trial["trial"]), *values, accuracy, str(trial["epochs"] or "-"), *times, ended]
