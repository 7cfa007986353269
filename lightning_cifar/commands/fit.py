"""``fit``: train a recipe, or resume a run that was stopped. What happens, in order, is `fit`."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.profilers import PassThroughProfiler

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.data.steps import count_batches
from lightning_cifar.errors import InputError, format_count
from lightning_cifar.run.checkpoints.ended_early import EndedEarly
from lightning_cifar.run.directory import has_results
from lightning_cifar.run.figures.curves import METRICS
from lightning_cifar.run.figures.live_figure import CURVES
from lightning_cifar.run.job import Job, choose_precision, load_data, load_weights
from lightning_cifar.run.process.exit_status import RankError
from lightning_cifar.run.records.wandb import log_checkpoint, log_curves
from lightning_cifar.run.settings.ineffective import list_ineffective
from lightning_cifar.run.settings.shell import format_command, format_test_command, list_trust
from lightning_cifar.run.trainer import Run, open_run, train

FEW_STEPS = 100


def fit(job: Job, callbacks: Sequence[Callback] = ()) -> None:
    """Train, or resume, and print where everything is; ``callbacks`` join those of the settings."""
    load_data(job)  # first, so that bad data leaves no directory behind
    steps_before = 0
    if job.ckpt_path and job.settings["resume"] is None:
        steps_before = load_weights(job).steps  # Lightning would explain another network's in ten kilobytes
    choose_precision(job)
    for line in (*list_ineffective(job.typed, job.settings, job.data), *list_few_steps(job)):
        print(f"note: {line}")
    if "SLURM_JOB_ID" in os.environ and not (job.settings["run_dir"] or job.settings["resume"]):
        print("note: if SLURM restarts this job, it trains from the beginning: --run_dir DIR lets it resume")
    with open_trial_directory(job) as trial, open_run(job, trial, callbacks) as run:
        run.steps_before = run.steps_before or steps_before
        if trial is None:
            print(f"run directory: {run.directory}", flush=True)
        try:
            train(job, run)
            for line in describe_end(job, run):
                print(line)
        except (KeyboardInterrupt, SystemExit, RankError):  # a signal, or a second one
            if trial is None and run.trainer.checkpoint_callbacks and has_results(run.directory.iterdir()):
                trust = list_trust(job.settings["trust_config"])
                print(f"resume it: {format_command('fit', '--resume', run.directory, *trust)}")
            raise
        finally:  # after Ctrl-C too
            if trial is None:
                report_files(job, run)


@contextmanager
def open_trial_directory(job: Job) -> Iterator[Path | None]:
    """Yield a temporary directory for ``fast_dev_run``, which tries a few batches; None for a run that is kept."""
    if not job.trainer["fast_dev_run"]:
        yield None
        return
    if job.settings["resume"] is not None:
        raise InputError("--trainer.fast_dev_run tries a new run: leave out --resume")
    print("--trainer.fast_dev_run tries a few batches and keeps no files")
    with TemporaryDirectory() as parent:
        yield Path(parent, "run")


def list_few_steps(job: Job) -> Iterator[str]:
    """Yield a line if a new network gets few steps because the folder has few images."""
    batches, epochs = count_batches(job.data), job.trainer["max_epochs"]
    is_new = not (job.ckpt_path or job.settings["init_from"])
    is_default = job.leaves_to_data("trainer.max_epochs", "trainer.max_steps")
    if is_new and is_default and epochs and 0 < batches * epochs < FEW_STEPS:
        enough = math.ceil(FEW_STEPS / batches)
        few = f"{format_count(epochs, 'epoch')} of {format_count(batches, 'step')}"
        more = f"--trainer.max_epochs {enough} makes {enough * batches} steps"
        yield f"a network needs more than {few}: {more}"


def describe_end(job: Job, run: Run) -> Iterator[str]:
    """Yield the profiler's table, and why training ended before its last epoch or had ended before."""
    trainer = run.trainer
    if not isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]  # set from outside
        yield trainer.profiler.summary()  # type: ignore[attr-defined]
    stopped = [one for one in find_callbacks(trainer, EarlyStopping) if one.stopping_reason_message]
    timers = [one for one in find_callbacks(trainer, Timer) if (one.time_remaining() or 1) <= 0]
    limit = "max_time" if timers else "max_epochs"
    if 0 < trainer.max_steps <= trainer.global_step:
        limit = "max_steps"
    if any(one.ended for one in find_callbacks(trainer, EndedEarly)):
        waited = any(one.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED for one in stopped)
        remedy = "raise --trainer.callbacks.patience to train on" if waited else stopped[0].stopping_reason_message
        yield f"nothing left to train: early stopping ended this run; {remedy}"
    elif (run.checkpoint or job.ckpt_path) and trainer.global_step == run.steps_before:
        what = "this run" if run.checkpoint else "the run of this checkpoint"
        yield f"nothing left to train: {what} is complete; raise --trainer.{limit} to train on"
    elif timers or stopped:
        limit = f"--trainer.max_time {job.trainer['max_time']}"
        yield f"ended early: {stopped[0].stopping_reason_message if stopped else limit}"
    elif trainer.should_stop and limit != "max_steps":
        yield f"ended early: a callback set trainer.should_stop after {format_count(trainer.global_step, 'step')}"


def report_files(job: Job, run: Run) -> None:
    """Print where curves, metrics and the checkpoint are, and how it is tested; upload curves and checkpoint to W&B."""
    if run.directory.exists() and not (run.directory / "config.yaml").exists():
        print(f"{run.directory} was moved or deleted during training: its config.yaml is missing, for --resume")
    for kind, name in (("curves", CURVES), ("metrics", METRICS)):
        if (run.directory / name).exists():
            print(f"{kind}: {run.directory / name}")
    best, last = run.find_best(), run.find_last()
    # Without validation images, best.ckpt is the same file as last.ckpt.
    if checkpoint := (best if job.data.hparams["held_out"] == "val" else last) or best or last:
        print(f"checkpoint: {checkpoint}")
        root, labels = (job.data.hparams[name] for name in ("root", "labels"))  # never taken from a checkpoint
        print(f"test it: {format_test_command(checkpoint, root, labels, job.settings['trust_config'])}")
    if run.wandb is not None:
        if (run.directory / CURVES).exists():
            log_curves(run.wandb, run.directory / CURVES)
        if checkpoint and job.settings["wandb_checkpoints"]:
            log_checkpoint(run.wandb, str(checkpoint))
