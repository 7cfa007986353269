"""Search: a study of Optuna and its trials, one after the other, until there are enough of them."""

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna import Trial, TrialPruned
from optuna.samplers import TPESampler

from lightning_cifar.commands.sweep.space import Space, described, drawn, holds, typed
from lightning_cifar.commands.sweep.study import (
    counted,
    draw,
    give_back,
    in_words,
    open_study,
    rows,
    unstable,
    write_csv,
)
from lightning_cifar.commands.sweep.trial import run_trial
from lightning_cifar.data.dataset import Dataset
from lightning_cifar.errors import DivergenceError, is_about_input, is_out_of_memory, reason
from lightning_cifar.evaluate.tables import align_columns
from lightning_cifar.files import write_json

SHOWN = 10  # rows of the table


class Search:
    """A study, and what its trials are trained with.

    Args:
        fit: what `layered` gives for ``fit`` with the options that all trials have.
        typed: these options as they were typed.
        space: what is searched.
        file: of the study, new or from before, in the directory of the sweep.
        pruning: end trials that fall behind.
    """

    def __init__(self, fit: list[str], typed: list[str], space: Space, file: Path, pruning: bool) -> None:
        self.fit, self.typed, self.space, self.file, self.run_dir = fit, typed, space, file, file.parent
        self.source: Dataset | None = None  # what the first trial has read
        self.works = False  # a trial of this process was trained
        self.trial: int | None = None  # the number of the one that runs
        self.waited_for: list[int] = []
        # One process at a time opens the study, counts its trials and begins another.
        self.turn = FileLock(self.run_dir / ".turn")
        words = {name: described(searched) for name, searched in space.items()}
        with self.turn:
            self.study = open_study(file, words, pruning)
        print(f"run directory: {self.run_dir}")
        for name, values in words.items():
            print(f"searching {name}: {values}")

    def run(self, n_trials: int, known: dict[str, Any]) -> None:
        """Trains until there are so many trials, then tells what came of them.

        Args:
            n_trials: of all processes together, with those from before.
            known: what the run has without a search; where this is in the space, it is the first trial.
        """
        with in_words(self.file):
            with self.turn:
                self.begin_with(known)
            while self.one_more(n_trials):
                self.trial = None
            with self.turn:  # several processes may come to the end together
                self.tell()

    def begin_with(self, known: dict[str, Any]) -> None:
        inside = all(name in known and holds(searched, known[name]) for name, searched in self.space.items())
        if inside and not self.study.trials:
            self.study.enqueue_trial({name: known[name] for name in self.space})

    def one_more(self, n_trials: int) -> bool:
        """Trains a trial, or waits a moment for those of other processes; False where all have ended."""
        with self.turn:
            ended, running = counted(self.study)
            if ended >= n_trials:
                return False
            if ended + len(running) < n_trials:
                with unstable():  # trials that run elsewhere count as poor ones, so that no two try the same
                    self.study.sampler = TPESampler(seed=len(self.study.trials), constant_liar=True)
                try:
                    self.study.optimize(self.train, n_trials=1)
                except BaseException as stop:
                    if self.trial is not None:
                        give_back(self.study, self.trial)
                        if not isinstance(stop, Exception):
                            where = f"--run_dir {self.run_dir}"
                            print(
                                f"stopped in trial {self.trial}; to resume: the same command with {where}",
                                file=sys.stderr,
                            )
                    raise
                return True
        if running != self.waited_for:
            print(f"waiting for trials of other processes: {', '.join(map(str, running))}", flush=True)
            self.waited_for = running
        time.sleep(1)
        return True

    def train(self, trial: Trial) -> float:
        """The validation accuracy of a trial that Optuna has begun.

        Raises:
            TrialPruned: it fell behind, or its values do not work.
        """
        self.trial = trial.number
        values = shlex.join(typed(drawn(trial, self.space)))
        self.turn.release()
        directory = trial.user_attrs.get("directory", f"trial{trial.number}")  # where it was stopped, if it was
        trial.set_user_attr("directory", directory)
        print(f"trial {trial.number}: {values}", flush=True)
        try:
            outcome = run_trial(self.fit, self.typed, trial, self.run_dir / directory, self.source)
        except Exception as error:
            if (why := self.fault_of_values(error)) is None:
                raise
            trial.set_user_attr("ended", why)
            print(f"trial {trial.number}: {why}: {reason(error)}", flush=True)
            raise TrialPruned from error
        self.source, self.works = outcome.source, True
        self.study.set_user_attr("typed", self.typed)  # all trials have the same settings
        trial.set_user_attr("epochs", outcome.epochs)
        trial.set_user_attr("train_seconds", round(outcome.seconds, 2))
        told = f"validation accuracy {outcome.accuracy:.2%}, {outcome.seconds:.1f} s"
        if outcome.pruned:
            print(f"trial {trial.number}: pruned after epoch {outcome.epochs}: {told}", flush=True)
            raise TrialPruned
        print(f"trial {trial.number}: {told}", flush=True)
        return outcome.accuracy

    def fault_of_values(self, error: Exception) -> str | None:
        """How a trial ended whose values do not work; None where the error is about more than this trial."""
        if isinstance(error, DivergenceError) or is_out_of_memory(error):
            self.works = True
            return "diverged" if isinstance(error, DivergenceError) else "out of memory"
        # What the first one is refused for, it may be that all would be.
        return "refused" if self.works and is_about_input(error) else None

    def tell(self) -> None:
        """Prints the table, and the command of the best trial; writes them, and the pictures."""
        found = rows(self.study)
        best = found[0]
        command = None
        if best["ended"] == "complete":
            fixed = self.study.user_attrs["typed"]  # by who trained, and not by who only asks what came of it
            command = shlex.join(["python", "-m", "lightning_cifar", "fit", *fixed, *typed(best["values"])])
        write_json(
            self.run_dir / "sweep.json",
            {"space": self.study.user_attrs["space"], "n": len(found), "fit": command, "trials": found},
        )
        write_csv(self.run_dir / "trials.csv", found)
        print(align_columns([["trial", *self.space, "accuracy, %", "epochs", "s", ""], *map(cells, found[:SHOWN])]))
        if len(found) > SHOWN:
            print(f"and {len(found) - SHOWN} more: {self.run_dir / 'trials.csv'}")
        for file in (self.run_dir / "sweep.json", *draw(self.study, self.run_dir)):
            print(f"{file.stem}: {file}")
        if command is None:
            print("no trial came to its end: another --search may")
        else:
            print(f"the best, trial {best['trial']}:\n{command}")


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    accuracy = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f}"
    seconds = "-" if row["train_seconds"] is None else f"{row['train_seconds']:.1f}"
    ended = "" if row["ended"] == "complete" else row["ended"]
    return [str(row["trial"]), *map(str, row["values"].values()), accuracy, str(row["epochs"] or "-"), seconds, ended]
