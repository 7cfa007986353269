"""A study of Optuna in an SQLite file: opened, for several processes at once; told as a table, JSON, CSV, pictures."""

import csv
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from matplotlib import pyplot
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from lightning_cifar.errors import InputError, reason
from lightning_cifar.files import write_whole

NAME = "sweep"  # of the study in its file
# Seconds: between two signs of life of a trial, after which without one it counts as dead, and to wait for the file.
HEARTBEAT, GRACE, PATIENCE = 10, 60, 120
RETRIES = 3  # of a trial whose process died
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(file: Path, space: dict[str, str], pruning: bool = True) -> optuna.Study:
    """The study in ``file``, new or from before.

    Args:
        file: SQLite; one process at a time may open it, then all may use it.
        space: what is searched, in words, by name.
        pruning: end trials that are below the median of those before them, after the same number of epochs.

    Raises:
        InputError: it is damaged, or holds something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=1) if pruning else optuna.pruners.NopPruner()
    with in_words(file), unstable():
        storage = RDBStorage(
            f"sqlite:///{file}",
            engine_kwargs={"connect_args": {"timeout": PATIENCE}},
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES, inherit_intermediate_values=True),
        )
        names = [name for name in optuna.get_all_study_names(storage) if name != NAME]
        if names:
            raise InputError(f"{file} holds another study, {names[0]!r}: name another --run_dir")
        study = optuna.create_study(
            storage=storage, study_name=NAME, direction="maximize", pruner=pruner, load_if_exists=True
        )
        if not study.trials and not study.user_attrs:
            study.set_user_attr("space", space)
        stored = study.user_attrs.get("space", {})
    for name in sorted({*space, *stored}):
        if space.get(name) != stored.get(name):
            now, then = (f"searches {known[name]}" if name in known else "is fixed" for known in (space, stored))
            raise InputError(f"{name} {now} here, and {then} in {file}: name another --run_dir")
    return study


@contextmanager
def in_words(file: Path) -> Iterator[None]:
    """Has what the database complains of end in one line."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        why = getattr(cause, "orig", None) or cause
        raise InputError(f"{file} cannot be used: {reason(why)}") from error  # type: ignore[arg-type]
    except RuntimeError as error:
        if "optuna version" not in str(error):
            raise
        raise InputError(f"{file} cannot be used: {reason(error)}") from error


@contextmanager
def unstable() -> Iterator[None]:
    """Silences Optuna's notes that heartbeats and pictures may change in a later version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def give_back(study: optuna.Study, number: int) -> None:
    """Has the next start of the sweep go on with a trial that was stopped."""
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    with unstable():
        retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    retry(study, study.trials[number])


def counted(study: optuna.Study) -> tuple[int, list[int]]:
    """How many trials have ended, and the numbers of those that run, here or in another process.

    Those whose process died are given back before; trials that were stopped do not count.
    """
    with unstable():
        optuna.storages.fail_stale_trials(study)
    trials = study.get_trials(deepcopy=False)
    running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
    return sum(trial.state in ENDED for trial in trials), running


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    """What is known of each trial that has ended, the best one first."""
    found = [row(trial) for trial in study.trials if trial.state in ENDED]
    return sorted(found, key=lambda one: (one["ended"] != "complete", -(one["accuracy"] or 0)))


def row(trial: FrozenTrial) -> dict[str, Any]:
    last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else None
    known = trial.user_attrs
    return {
        "trial": trial.number,
        "accuracy": trial.value if trial.state == TrialState.COMPLETE else last,
        "ended": known.get("ended", trial.state.name.lower()),
        **{name: known.get(name) for name in ("epochs", "train_seconds", "directory")},
        # As they were typed, and trained with.
        "values": {
            name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in trial.params.items()
        },
    }


def write_csv(file: Path, trials: list[dict[str, Any]]) -> None:
    """A line for each of `rows`, a column for each parameter."""
    text = io.StringIO()
    flat = [{**{key: cell for key, cell in one.items() if key != "values"}, **one["values"]} for one in trials]
    lines = csv.DictWriter(text, [*flat[0]], lineterminator="\n")
    lines.writeheader()
    lines.writerows(flat)
    write_whole(file, text.getvalue().encode())


def draw(study: optuna.Study, directory: Path) -> list[Path]:
    """Optuna's pictures that the trials so far allow, as PNG: history, slices, contours, importances."""
    from optuna.visualization import matplotlib as pictures

    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    kinds: dict[str, Any] = {"history": pictures.plot_optimization_history}
    if len(complete) > 1:
        kinds["slice"] = pictures.plot_slice
    if len({trial.value for trial in complete}) > 1 and len(complete[0].params) > 1:
        kinds |= {"contour": pictures.plot_contour, "importances": pictures.plot_param_importances}
    files, backend = [], pyplot.get_backend()
    pyplot.switch_backend("agg")  # no window
    try:
        for name, plot in kinds.items() if complete else ():
            with pyplot.rc_context({"figure.figsize": (8, 4.8)}), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a parameter that had one value so far, say
                plot(study, target_name="share of importance" if name == "importances" else "validation accuracy")
                for axes in pyplot.gcf().axes:
                    # Less than a decade has labels between its powers of ten, which would overlap.
                    axes.tick_params(axis="x", which="minor", labelrotation=90)
                picture = io.BytesIO()
                pyplot.gcf().savefig(picture, dpi=120, format="png", bbox_inches="tight")
                pyplot.close()
            files.append(directory / f"{name}.png")
            write_whole(files[-1], picture.getvalue())
    finally:
        pyplot.switch_backend(backend)
    return files
