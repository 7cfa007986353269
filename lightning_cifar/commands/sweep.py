"""``sweep``: searches hyper-parameters with Optuna, each trial trained by ``fit`` and judged by validation accuracy.

The study is an SQLite file in the run directory. Several processes with the same command and ``--run_dir`` share it, on
one machine: SQLite locks no files over a network.
"""

import datetime
import shlex
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lightning_cifar.arguments import Arguments, layered, option
from lightning_cifar.commands.repeat import aligned
from lightning_cifar.errors import InputError, reason

if TYPE_CHECKING:
    from optuna import Study, Trial

    from lightning_cifar.commands.space import Space

STUDY = "sweep.db"
DEFAULT = ["model.learning_rate", "data.batch_size"]  # what is searched where nothing is named: the report's question
SHOWN = 10  # rows of the table


def parser() -> Arguments:
    arguments = Arguments(
        "sweep",
        description=__doc__.splitlines()[0],
        epilog="Every option of fit may follow. Stopped, the same command with the same --run_dir goes on; started "
        "several times, the processes share the trials.",
    )
    arguments.add_argument("--n_trials", type=int, default=20, help="how many trials in all; default 20")
    arguments.add_argument("--run_dir", type=Path, help="a directory of this command, new or its own from before")
    arguments.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="what to search: model.dropout=0:0.5, model.learning_rate=log:1e-4:1e-2, trainer.max_epochs=2:8 (whole "
        "numbers), data.batch_size=128,256; again for each parameter; default: learning rate and batch size around "
        "the recipe's",
    )
    arguments.add_argument(
        "--no_pruning", action="store_true", help="train every trial to its end, also those below the median"
    )
    return arguments


def main(args: list[str]) -> int:
    """Runs ``sweep`` with these arguments and returns the exit status.

    Raises:
        InputError: bad arguments.
    """
    own, rest = parser().parse_known_args(args)
    if own.n_trials < 1:
        raise InputError(f"--n_trials must be at least 1, got {own.n_trials}")
    if option(rest, "--ckpt_path") is not None:
        raise InputError("--ckpt_path: sweep trains every trial from the start")
    if option(rest, "--data.held_out") == "test":
        raise InputError("--data.held_out test: sweep chooses, and that by validation images alone")
    fit = layered(["fit", *rest])  # before torch is imported: typos are answered at once
    if find_spec("optuna") is None:
        raise InputError("sweep needs the extra: pip install 'lightning-cifar[sweep]'")
    from lightning_cifar.commands.space import default_space, own_values, space_of

    space = space_of(own.search)
    for name in space:
        if option(rest, f"--{name}") is not None:
            raise InputError(f"--{name} is given, and searched by --search {name}=...: one of both")
    known = own_values(fit, [*space] or DEFAULT)
    if not space:
        space = default_space(known, [name for name in DEFAULT if option(rest, f"--{name}") is not None])
    recipe = option(rest, "--recipe") or ("custom" if option(rest, "--config", "-c") else "report")
    run_dir = own.run_dir or Path("runs/sweep", recipe, datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    prepare_directory(run_dir)
    Sweep(fit, rest, space, run_dir, pruning=not own.no_pruning).run(own.n_trials, known)
    return 0


def prepare_directory(run_dir: Path) -> None:
    """Makes it.

    Raises:
        InputError: it cannot be made, or holds something else than a sweep.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if any(not entry.name.startswith(".") for entry in run_dir.iterdir()) and not (run_dir / STUDY).exists():
            raise InputError(f"--run_dir {run_dir} is in use, and not by sweep")
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}") from error


class Sweep:
    """A study, and what its trials are trained with.

    Args:
        fit: what `layered` gives for ``fit`` with the options that all trials have.
        typed: these options as they were typed.
        space: what is searched.
        run_dir: of the sweep, which exists.
        pruning: end trials that fall behind.
    """

    def __init__(self, fit: list[str], typed: list[str], space: "Space", run_dir: Path, pruning: bool) -> None:
        from lightning_cifar.commands.space import described
        from lightning_cifar.results.study import open_study

        self.fit, self.typed, self.space, self.run_dir = fit, typed, space, run_dir
        self.earlier: Any = None  # the last trial of this process, whose data is used again
        self.works = False  # a trial of this process was trained
        self.trial: int | None = None  # the number of the one that runs
        self.waited_for: list[int] = []
        # One process at a time opens the study, counts its trials and begins another.
        self.turn = FileLock(run_dir / ".turn")
        words = {name: described(searched) for name, searched in space.items()}
        with self.turn:
            self.study: Study = open_study(run_dir / STUDY, words, pruning)
        print(f"run directory: {run_dir}")
        for name, values in words.items():
            print(f"searching {name}: {values}")

    def run(self, n_trials: int, known: dict[str, Any]) -> None:
        """Trains until there are so many trials, then tells what came of them.

        Args:
            n_trials: of all processes together, with those from before.
            known: what the run has without a search; where this is in the space, it is the first trial.
        """
        from lightning_cifar.results.study import in_words

        with in_words(self.run_dir / STUDY):
            with self.turn:
                self.begin_with(known)
            while self.one_more(n_trials):
                self.trial = None
            with self.turn:  # several processes may come to the end together
                self.tell()

    def begin_with(self, known: dict[str, Any]) -> None:
        from lightning_cifar.commands.space import holds

        inside = all(name in known and holds(searched, known[name]) for name, searched in self.space.items())
        if inside and not self.study.trials:
            self.study.enqueue_trial({name: known[name] for name in self.space})

    def one_more(self, n_trials: int) -> bool:
        """Trains a trial, or waits a moment for those of other processes; False where all have ended."""
        from optuna.samplers import TPESampler

        from lightning_cifar.results.study import counted, give_back, unstable

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
                    give_back(self.study, self.trial)
                    if not isinstance(stop, Exception):
                        where = f"--run_dir {self.run_dir}"
                        print(
                            f"stopped in trial {self.trial}; to go on: the same command with {where}", file=sys.stderr
                        )
                    raise
                return True
        if running != self.waited_for:
            print(f"waiting for trials of other processes: {', '.join(map(str, running))}", flush=True)
            self.waited_for = running
        time.sleep(1)
        return True

    def train(self, trial: "Trial") -> float:
        """The validation accuracy of a trial that Optuna has begun.

        Raises:
            TrialPruned: it fell behind, or its values do not work.
        """
        from optuna import TrialPruned

        from lightning_cifar.commands.space import drawn, typed
        from lightning_cifar.commands.trial import TrialRun

        self.trial = trial.number
        values = shlex.join(typed(drawn(trial, self.space)))
        self.turn.release()
        directory = trial.user_attrs.get("directory", f"trial{trial.number}")  # where it was stopped, if it was
        trial.set_user_attr("directory", directory)
        print(f"trial {trial.number}: {values}", flush=True)
        try:
            run = TrialRun(self.fit, trial, self.run_dir / directory, self.earlier)
        except Exception as error:
            if (why := self.fault_of_values(error)) is None:
                raise
            trial.set_user_attr("ended", why)
            print(f"trial {trial.number}: {why}: {reason(error)}", flush=True)
            raise TrialPruned from error
        self.earlier, self.works = run, True
        trial.set_user_attr("epochs", run.epochs)
        trial.set_user_attr("train_seconds", round(run.seconds, 2))
        told = f"{run.accuracy:.2%} of the validation images, {run.seconds:.1f} s"
        if run.pruned:
            print(f"trial {trial.number}: pruned after epoch {run.epochs}: {told}", flush=True)
            raise TrialPruned
        print(f"trial {trial.number}: {told}", flush=True)
        return run.accuracy

    def fault_of_values(self, error: Exception) -> str | None:
        """How a trial ended whose values do not work; None where the error is about more than this trial."""
        from lightning_cifar.cli import out_of_memory
        from lightning_cifar.train.finite import DivergenceError

        if isinstance(error, DivergenceError) or out_of_memory(error):
            self.works = True
            return "diverged" if isinstance(error, DivergenceError) else "out of memory"
        # What the first one is refused for, it may be that all would be.
        return "refused" if isinstance(error, InputError) and self.works else None

    def tell(self) -> None:
        """Prints the table, and the command of the best trial; writes them, and the pictures."""
        from lightning_cifar.commands.space import typed
        from lightning_cifar.results.study import draw, rows, write_csv
        from lightning_cifar.train.record import write_json

        found = rows(self.study)
        best = found[0]
        command = None
        if best["ended"] == "complete":
            command = shlex.join(["python", "-m", "lightning_cifar", "fit", *self.typed, *typed(best["values"])])
        write_json(
            self.run_dir / "sweep.json",
            {"space": self.study.user_attrs["space"], "n": len(found), "fit": command, "trials": found},
        )
        write_csv(self.run_dir / "trials.csv", found)
        print(aligned([["trial", *self.space, "accuracy, %", "epochs", "s", ""], *map(cells, found[:SHOWN])]))
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
