"""The loggers of a run: of ``metrics.csv``, of W&B, and configured ones, which get the run's name."""

import os
import warnings
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_cifar.errors import InputError, reason
from lightning_cifar.run.directory import list_missing, remove_empty
from lightning_cifar.run.figures.curves import METRICS
from lightning_cifar.run.job import Job
from lightning_cifar.run.process.rank_zero import is_rank_zero
from lightning_cifar.run.records.attempt import attempt_calls
from lightning_cifar.run.records.metrics_csv import keep_lines
from lightning_cifar.run.records.run_json import read_record_entry
from lightning_cifar.run.records.wandb import find_earlier_run, hide_paths, start_wandb
from lightning_cifar.run.settings.options import to_list

# Of MLflow, whose defaults let training wait for a quarter of an hour for a server that does not answer: these, 80 s.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
FILES = CSVLogger | TensorBoardLogger  # others send to a server


def make_loggers(job: Job, directory: Path, wandb: WandbLogger | None, lines: int) -> list[Logger]:
    """Return the CSV logger, W&B's and those of ``--trainer.logger``; checkpoints lie beside the first one's file."""
    loggers: list[Logger] = [keep_lines(CSVLogger(directory, name="", version=""), lines)]
    if wandb is not None and job.command != "test":  # a test has no steps to draw over
        loggers.append(wandb)
    configured, settings = job.trainer["logger"], job.settings["trainer"]["logger"]
    if isinstance(configured, bool) or not configured:
        return loggers
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    pairs, resumes = zip(to_list(configured), to_list(settings), strict=True), job.settings["resume"] is not None
    named = [name_run(logger, one, job.group, directory, resumes) for logger, one in pairs]
    writes = is_rank_zero() and not job.trainer["fast_dev_run"]
    for logger in named:
        if not isinstance(logger, FILES):
            attempt_calls(logger, type(logger).__name__.removesuffix("Logger"))
        if writes:
            check_log_directory(logger, directory, resumes)
        if lines and isinstance(logger, CSVLogger) and Path(logger.log_dir, METRICS).exists():
            keep_lines(logger, lines)
    if writes:
        named = [logger for logger in named if isinstance(logger, FILES) or can_log(logger)]
    return loggers + named


def check_log_directory(logger: Logger, run_dir: Path, resumes: bool) -> None:
    """Raise `InputError` if a logger's directory cannot be made, or holds what is not of this run."""
    if not logger.log_dir or "://" in logger.log_dir:
        return
    directory, remedy = Path(logger.log_dir), "name another save_dir or version"
    if isinstance(logger, CSVLogger) and directory.resolve() == run_dir.resolve():
        raise InputError(f"--trainer.logger would write {directory / METRICS}, which every run has anyway: {remedy}")
    pattern = METRICS if isinstance(logger, CSVLogger) else "events.out.tfevents.*"
    if not resumes and (earlier := next(directory.glob(pattern), None)):
        raise InputError(f"--trainer.logger: {earlier} is of another run: delete it, or {remedy}, or another --run_dir")
    made = list_missing(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--trainer.logger: cannot make {error.filename}: {error.strerror}; {remedy}") from error
    finally:
        remove_empty(made)


def name_run(logger: Logger, settings: Any, group: str, directory: Path, resumes: bool) -> Logger:
    """Return the logger with the run's name in the place of Lightning's ``lightning_logs/version_0``.

    A resumed run has the same name, so its curves continue. If its MLflow run was deleted, it begins another one.
    """
    arguments = vars(settings["init_args"]) if "init_args" in settings else {}
    run, names = directory.name, dict[str, tuple[str | None, str]]()
    names |= {"name": ("lightning_logs", group), "experiment_name": ("lightning_logs", group)}
    names |= {"version": (None, run), "run_name": (None, run)}
    run_id = read_record_entry(directory, "mlflow_run") if resumes and isinstance(logger, MLFlowLogger) else None
    changed = {key: new for key, (default, new) in names.items() if arguments.get(key, "absent") == default}
    named = type(logger)(**arguments | changed) if changed.keys() - {"version"} else logger
    if run_id and arguments.get("run_id") is None:
        earlier = type(logger)(**arguments | changed | {"run_id": run_id})
        if not is_rank_zero() or is_active(earlier, run_id):
            earlier.log_hyperparams = lambda *_, **__: None  # type: ignore[method-assign]  # MLflow refuses others
            return earlier
        print(f"note: the MLflow run {run_id} was deleted, or does not answer: a new one is used")
    return named


def is_active(logger: Any, run_id: str) -> bool:
    """Return whether an MLflow run can be logged to."""
    try:
        return bool(logger.experiment.get_run(run_id).info.lifecycle_stage == "active")
    except Exception:  # mlflow's own
        return False


def can_log(logger: Logger) -> bool:
    """Return whether a logger can begin; warn if not: that must not end the run."""
    try:
        getattr(logger, "experiment", None)
    except Exception as error:
        warnings.warn(f"{type(logger).__name__} logs nothing of this run: {reason(error)}", stacklevel=2)
        return False
    return True


def make_wandb_logger(job: Job, directory: Path) -> WandbLogger | None:
    """Return a logger to a new W&B run, or to the one that this run continues or tests; None without --wandb."""
    is_test = job.command == "test"
    logged = job.ckpt_path.parent.parent if is_test and job.ckpt_path else directory
    earlier = find_earlier_run(logged)
    mode = job.settings["wandb"] or (earlier.mode if earlier and not is_test else None)
    if mode is None:
        if job.settings["wandb_checkpoints"]:
            raise InputError("--wandb_checkpoints uploads to W&B: add --wandb")
        return None
    config = yaml.safe_load(job.dump())
    recipe = read_record_entry(logged, "recipe") if is_test else config["recipe"]
    return start_wandb(
        mode,
        directory,
        earlier,
        is_test,
        name=f"{job.group}/{directory.name}",
        group=recipe or job.group,
        tags=[recipe] if recipe else None,
        job_type=job.command,
        config=hide_paths({**config, "recipe": recipe}),
    )
