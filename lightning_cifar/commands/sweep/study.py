"""Optuna study in an SQLite file, which several processes can share, and its results: records, CSV file, plots."""

import csv
import io
import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from lightning_cifar.commands.sweep.space import round_values
from lightning_cifar.errors import InputError, reason
from lightning_cifar.files import write_whole
from lightning_cifar.run.figures.png import render_figure

NAME = "sweep"  # of the study in its file
# Seconds between heartbeats of a trial, without one until its process counts as dead, and to wait for the database.
HEARTBEAT, GRACE, PATIENCE = 10, 60, 120
RETRIES = 3  # of a trial whose process died
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(file: Path, space: dict[str, str], pruning: bool = True) -> optuna.Study:
    """Open the study in ``file``, or create it; `InputError` if it holds another study or another space.

    Only one process at a time may open the file, an SQLite database; then all may use it. ``space`` describes the
    values searched, by option name. ``pruning``: stop trials that are below the median of earlier ones.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=1) if pruning else optuna.pruners.NopPruner()
    with explain_database_errors(file), silence_experimental():
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
            now, before = (f"searched over {known[name]}" if name in known else "fixed" for known in (space, stored))
            raise InputError(f"{name} is {now} here, but {before} in {file}: name another --run_dir")
    return study


@contextmanager
def explain_database_errors(file: Path) -> Iterator[None]:
    """Turn errors of the database into an `InputError` of one line that names its file."""
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
def silence_experimental() -> Iterator[None]:
    """Silence Optuna's warnings that heartbeats and samplers are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def requeue_trial(study: optuna.Study, number: int) -> None:
    """Queue a stopped trial again, so that the next process resumes it; not one that has its result."""
    if study.tell(number, state=TrialState.FAIL, skip_if_finished=True).state in ENDED:
        return
    with silence_experimental():
        retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    retry(study, study.trials[number])


def count_trials(study: optuna.Study) -> tuple[int, list[int]]:
    """Return the number of trials that have ended, and the numbers of those that run in any process.

    Trials of dead processes are queued again first. Stopped trials are not counted.
    """
    with silence_experimental():
        optuna.storages.fail_stale_trials(study)
    trials = study.get_trials(deepcopy=False)
    running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
    return sum(trial.state in ENDED for trial in trials), running


def list_trials(study: optuna.Study) -> list[dict[str, Any]]:
    """Return a record of each trial that has ended: completed ones first, then by accuracy, highest first."""
    records = [make_record(trial) for trial in study.trials if trial.state in ENDED]
    return sorted(records, key=lambda one: (one["ended"] != "complete", -(one["accuracy"] or 0)))


def make_record(trial: FrozenTrial) -> dict[str, Any]:
    last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else None
    known = trial.user_attrs
    return {
        "trial": trial.number,
        "accuracy": trial.value if trial.state == TrialState.COMPLETE else last,
        "ended": known.get("ended", trial.state.name.lower()),
        **{name: known.get(name) for name in ("epochs", "train_seconds", "fit_seconds", "directory")},
        "values": round_values(trial),
    }


def write_csv(file: Path, trials: list[dict[str, Any]]) -> None:
    """Write a row for each record of `list_trials`, with a column for each searched option, atomically."""
    text = io.StringIO()
    flat = [{**{key: cell for key, cell in one.items() if key != "values"}, **one["values"]} for one in trials]
    writer = csv.DictWriter(text, [*flat[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_whole(file, text.getvalue().encode())


def write_plots(study: optuna.Study, directory: Path) -> list[Path]:
    """Write Optuna's plots as PNG files and return them: history, slices, contours, importances.

    Plots that need more completed trials are left out.
    """
    from optuna.visualization import matplotlib as plots

    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    kinds: dict[str, Any] = {"history": plots.plot_optimization_history} if complete else {}
    if len(complete) > 1:
        kinds["slice"] = plots.plot_slice
    if len({trial.value for trial in complete}) > 1 and len(complete[0].params) > 1:
        kinds |= {"contour": plots.plot_contour, "importances": plots.plot_param_importances}
    files, backend = [], pyplot.get_backend()
    pyplot.switch_backend("agg")  # no window
    try:
        for name, plot in kinds.items():
            panels = len(complete[0].params) if name == "contour" else 1  # in a row and in a column; of two options one
            size = (8, 4.8) if panels < 3 else (3.2 * panels, 2.6 * panels)
            layout: Any = {"figure.figsize": size, "figure.constrained_layout.use": panels > 2}
            with pyplot.rc_context(layout), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as for an option with a single value so far
                plot(study, target_name="share of importance" if name == "importances" else "validation accuracy")
                for axes in pyplot.gcf().axes:
                    # On a range below a decade, the labels between powers of ten would overlap.
                    axes.tick_params(axis="x", which="minor", labelrotation=90)
                if name in ("history", "slice"):
                    limit_outliers(pyplot.gcf().axes, [trial.value for trial in complete if trial.value is not None])
                png = render_figure(pyplot.gcf(), bbox_inches="tight")
                pyplot.close()
            files.append(directory / f"{name}.png")
            write_whole(files[-1], png)
    finally:
        pyplot.switch_backend(backend)
    return files


def limit_outliers(axes: list[Axes], values: list[float]) -> None:
    """Cut the axis of accuracy above poor trials that would squash all others, and count them in the axis' label."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 3 else (0.0, 0.0, 0.0)
    end = low - 3 * (high - low)
    if (count := sum(value < end for value in values)) and high > low:
        axes[0].set_ylabel(f"{axes[0].get_ylabel()} ({count} below {end:.2f} not shown)")
        for one in axes:
            if one.get_ylabel() != "Trial":  # that of the colour bar
                one.set_ylim(bottom=end)
