"""A run: its directory, locked, and a Trainer with the callbacks and loggers that a run needs."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import WandbLogger

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.errors import InputError
from lightning_cifar.files import write_whole
from lightning_cifar.model.named import FIVE_BLOCK
from lightning_cifar.run.accumulation import LastGroup, accumulates
from lightning_cifar.run.checkpoints.best_checkpoint import BestCheckpoint
from lightning_cifar.run.checkpoints.checkpoint_files import (
    BEST,
    LAST,
    check_seed,
    count_stored_lines,
    link_best,
    load_newest,
    read_batch_size,
)
from lightning_cifar.run.checkpoints.ended_early import EndedEarly
from lightning_cifar.run.checkpoints.last_checkpoint import LastCheckpoint
from lightning_cifar.run.console.progress import Progress
from lightning_cifar.run.directory import UNFINISHED, lock, make_directory, undo_if_refused
from lightning_cifar.run.figures.batch_figure import BatchFigure
from lightning_cifar.run.figures.live_figure import LiveFigure
from lightning_cifar.run.final_validation import FinalValidation
from lightning_cifar.run.guards import FiniteLoss, GateStatistics
from lightning_cifar.run.job import Job
from lightning_cifar.run.process.exit_status import explain_callbacks, explain_checkpoint
from lightning_cifar.run.process.hardware import keep_freed_memory
from lightning_cifar.run.process.rank_zero import is_rank_zero, pass_on, values_of_rank_zero
from lightning_cifar.run.process.ranks import watch_ranks
from lightning_cifar.run.process.state import restore_torch
from lightning_cifar.run.records.loggers import make_loggers, make_wandb_logger
from lightning_cifar.run.records.run_json import RunRecord
from lightning_cifar.run.records.throughput import Throughput
from lightning_cifar.run.records.wandb import finish_wandb
from lightning_cifar.run.settings.changes import list_changes, refuse_edits
from lightning_cifar.run.settings.options import to_list
from lightning_cifar.run.settings.parsing import ConfiguredTrainer, continues
from lightning_cifar.run.settings.precedence import find_config
from lightning_cifar.run.settings.shell import quote_path
from lightning_cifar.run.settings.trainer_options import check_checkpoints, check_monitors
from lightning_cifar.train.checkpoint import DurableIO

FINDERS = (LearningRateFinder, BatchSizeFinder)


@dataclass
class Run:
    """A run that is about to start, or to resume."""

    directory: Path
    trainer: Trainer  # with the run's callbacks and loggers
    wandb: WandbLogger | None = None
    checkpoint: Path | None = None  # from which a resumed run continues
    steps_before: int = 0  # of the checkpoint

    def find_last(self) -> Path | None:
        """Return the last checkpoint; None if there is none."""
        paths = (getattr(callback, "last_model_path", "") for callback in self.trainer.checkpoint_callbacks)
        found = next(filter(os.path.isfile, paths), None)
        return Path(found) if found else self.checkpoint  # a finished run that is resumed writes nothing

    def find_best(self) -> Path | None:
        """Return the best checkpoint: the one that a callback selected, or the file beside the last; None without."""
        paths = (one.best_model_path for one in find_callbacks(self.trainer, ModelCheckpoint))
        beside = last.with_name(BEST) if (last := self.find_last()) else ""
        found = next(filter(os.path.isfile, (*paths, beside)), None)
        return Path(found) if found else None


@contextmanager
def open_run(
    job: Job, directory: Path | None = None, callbacks: Sequence[Callback] = (), epoch_rows: bool = True
) -> Iterator[Run]:
    """Give the job a directory, locked and with its ``config.yaml``, and a Trainer; finish and unlock it afterwards.

    The job's data is loaded, and its precision chosen. A new run's ``directory`` is the one that ``--run_dir`` names by
    default, else one named by the time. If it is in use or an option cannot be used, nothing new is left behind.

    ``epoch_rows``: print a row of numbers after each epoch.
    """
    callbacks = make_callbacks(job, callbacks, epoch_rows)
    with ExitStack() as ending:
        ending.enter_context(restore_torch())
        if job.settings["resume"] is not None:
            run = resume_run(job, callbacks, ending)
        elif is_rank_zero():
            run = start_run(job, directory or job.settings["run_dir"], callbacks, ending)
        else:
            run = build_run(job, find_directory_of_rank_zero(job), callbacks)
        if (wandb := run.wandb) is not None:
            ending.push(lambda error, *_: finish_wandb(wandb, failed=error is not None))
        ending.enter_context(watch_ranks(run.trainer))
        try:
            yield run
        except (FileNotFoundError, NotADirectoryError) as error:
            if run.directory.is_dir():
                raise
            remedy = "move it back, or start anew"
            raise InputError(f"{run.directory} was moved or deleted while it was in use: {remedy}") from error


def start_run(job: Job, named: str | Path | None, callbacks: list[Callback], ending: ExitStack) -> Run:
    """Start a run in a new directory, which is removed again if the run cannot start."""
    evaluates, mark = job.command != "fit", UNFINISHED.format(job.command)
    try:
        parent, named_path = Path("runs", job.group), Path(named) if named else None
        directory, made = make_directory(named_path, parent, lambda one: evaluates and (one / mark).exists())
    except InputError as error:
        if named is None or evaluates or find_config(str(named)) is None:
            raise
        raise InputError(f"{error}, or resume its run: fit --resume {quote_path(str(named))}") from error
    hold(directory, job, ending, undo_if_refused(directory, made, stopped=evaluates))
    for stale in directory.glob(UNFINISHED.format("*")):  # of a command whose other files were removed
        stale.unlink()
    if evaluates:  # again, if it is killed
        write_whole(directory / mark, b"")
        ending.push(lambda error, *_: None if error else (directory / mark).unlink(missing_ok=True))
    write_whole(directory / "config.yaml", job.dump().encode())
    return build_run(job, directory, callbacks)


def resume_run(job: Job, callbacks: list[Callback], ending: ExitStack) -> Run:
    """Resume a run from its newest checkpoint, and print which settings have changed since."""
    directory = Path(job.settings["resume"])
    file, config, lines = directory / "config.yaml", job.dump(), 0
    if is_rank_zero():
        hold(directory, job, ending, undo_if_refused(directory))
    stored = job.complete(yaml.safe_load(file.read_text()))
    for change in list_changes(yaml.safe_load(config), stored):
        print(f"changed: {change}")
    checkpoint, steps = None, 0
    if found := load_newest(directory / "checkpoints", job.trainer["enable_checkpointing"] is not False):
        checkpoint, content = found
        with explain_checkpoint(checkpoint):
            check_seed(checkpoint, content, torch.initial_seed())
            steps, lines = content["global_step"], count_stored_lines(checkpoint, content)
            if any(one.__name__ in str(stored["trainer"]["callbacks"]) for one in FINDERS):
                size = job.data.hparams["batch_size"] = read_batch_size(checkpoint, content)
                rate = content["hyper_parameters"].get("learning_rate", job.settings["model"]["learning_rate"])
                job.settings["data"]["batch_size"], job.settings["model"]["learning_rate"] = size, rate
                config = job.dump()  # the finders may be left out the next time
            refuse_edits(file, yaml.safe_load(config), content)
        print(f"resuming from {checkpoint}, step {steps:,}")
    else:
        best = directory / "checkpoints" / BEST
        what = f"there is no {LAST}, and {best} will be replaced" if best.exists() else "no checkpoint was written yet"
        print(f"{what}: training starts from the beginning")
    run = replace(build_run(job, directory, callbacks, lines), checkpoint=checkpoint, steps_before=steps)
    if is_rank_zero():  # now that the settings are known to work
        write_whole(file, config.encode())
    return run


def hold(directory: Path, job: Job, ending: ExitStack, undo: Callable[..., None]) -> None:
    """Lock the directory, and pass it on to the processes that Lightning starts for this run."""
    held = lock(directory)
    if held is not None:
        ending.callback(held.release)
    ending.push(undo)  # called before the release: without the lock, new files are those of another process
    pass_on(run_dir=str(directory), precision=job.trainer["precision"], in_memory=hasattr(job.data.train, "images"))


def find_directory_of_rank_zero(job: Job) -> Path:
    named = values_of_rank_zero().get("run_dir") or job.settings["run_dir"]
    if named is None:
        raise InputError("several processes were started at once: name one directory for all by --run_dir")
    return Path(named)


def build_run(job: Job, directory: Path, callbacks: list[Callback], lines: int = 0) -> Run:
    """Build the Trainer of a run; ``lines`` of an existing ``metrics.csv`` are kept."""
    settings = dict(job.trainer)
    if job.settings["model"]["network"] == FIVE_BLOCK:  # whose batch norm uses the global batch
        settings["sync_batchnorm"] = False
    if settings["barebones"]:  # Lightning's word for nothing but the loop
        return Run(directory, ConfiguredTrainer(**settings | {"default_root_dir": str(directory)}))
    command = ["python", "-m", "lightning_cifar", *job.typed]
    wandb = make_wandb_logger(job, directory) if is_rank_zero() else None
    try:
        settings |= {
            "logger": make_loggers(job, directory, wandb, lines),
            "callbacks": [RunRecord(str(directory), command, job.settings["recipe"], job.start), *callbacks],
            "plugins": [*to_list(settings["plugins"]), DurableIO()],
            "default_root_dir": settings["default_root_dir"] or str(directory),
        }
        return Run(directory, ConfiguredTrainer(**settings), wandb)
    except Exception:
        if wandb is not None:
            finish_wandb(wandb, failed=True)
        raise


def make_callbacks(job: Job, further: Sequence[Callback], epoch_rows: bool) -> list[Callback]:
    """Return the configured callbacks, the further ones, and each usual one of which no instance is configured."""
    configured = [*further, *to_list(job.trainer["callbacks"])]
    usual: list[Callback] = []
    if job.command == "fit":
        if resumes := continues(job.settings):  # a finder would replace what the run has found
            configured = [one for one in configured if not isinstance(one, FINDERS)]
        check_checkpoints(configured, starts=not (job.ckpt_path or resumes))
        check_monitors(configured, job.data.hparams["held_out"], job.trainer["limit_val_batches"] != 0)
        usual += [Throughput(), GateStatistics(), FiniteLoss(), LiveFigure(), BatchFigure(), FinalValidation()]
        usual += [LastGroup()] if accumulates(job.trainer) else []
        usual += [EndedEarly(configured, job.settings["resume"] is not None)]
        if job.trainer["enable_checkpointing"] is not False:
            # Without validation, `train` makes best.ckpt of the last weights.
            if job.selects_by_validation and not any(isinstance(one, ModelCheckpoint) for one in configured):
                usual.append(BestCheckpoint())
            usual.append(LastCheckpoint())
    if job.trainer["enable_progress_bar"] is not False and not any(isinstance(one, ProgressBar) for one in configured):
        usual.append(Progress(epoch_rows=epoch_rows))
    return [*(one for one in usual if not any(isinstance(other, type(one)) for other in configured)), *configured]


def train(job: Job, run: Run) -> None:
    """Train, or resume, to the end. If no callback selects a ``best.ckpt``, it is then made the same as ``last.ckpt``.

    Raises:
        SystemExit: with 128 and the number of the signal that stopped training; ``last.ckpt`` is written then.
    """
    keep_freed_memory()
    checkpoint = run.checkpoint or job.ckpt_path
    try:
        with explain_checkpoint(checkpoint), explain_callbacks():
            run.trainer.fit(job.model, job.data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:  # how Lightning ends after a signal
        signals = (one.stop_signal for one in find_callbacks(run.trainer, LastCheckpoint))
        number = next(filter(None, signals), None)  # None before training began
        if number is None and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise SystemExit(128 + (number or signal.SIGINT)) from stop
    finally:
        last = run.find_last()
        selects = find_callbacks(run.trainer, ModelCheckpoint)
        if run.trainer.is_global_zero and not selects and last and last.is_file():  # there is none if the disk was full
            link_best(last)
