"""LastCheckpoint: what a stopped run goes on from as if it had never been stopped, to the bit.

Lightning's checkpoints lack the random generators, the epoch's metrics so far and the length of ``metrics.csv``; they
are also taken within a step, when it has not been logged yet. Here they are taken between two steps.
"""

import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torchmetrics import Metric

from lightning_cifar.errors import InputError
from lightning_cifar.run.curves import METRICS
from lightning_cifar.run.guards import FiniteLoss
from lightning_cifar.run.metrics_csv import find_csv_logger
from lightning_cifar.run.random_state import random_states, restore_random_states
from lightning_cifar.train.checkpoint import load_checkpoint

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGREE_EVERY = 20  # steps: each time, processes wait for each other


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` after every epoch, every few minutes, and before it ends training on SIGTERM or SIGINT.

    The one before stays as ``previous.ckpt``, should the last be damaged.

    They lie in ``checkpoints`` where the first logger writes.

    Args:
        minutes: between two, within an epoch.
    """

    def __init__(self, minutes: float = 10.0) -> None:
        self.seconds = 60 * minutes
        self.stop_signal: int | None = None
        self.requeue_signal: int | None = None  # SLURM's, before a job's time is up
        self.last_model_path = ""  # as of Lightning's ModelCheckpoint
        self.stored: dict[str, Any] = {}
        self.epoch_over = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.trainer, self.module = trainer, pl_module
            self.stop_signal, self.stored = None, {}  # of an earlier fit
            self.directory = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
            # Lightning calls no hook between two steps.
            follow(trainer.fit_loop.epoch_loop, "on_advance_end", self.after_step)
            follow(trainer.fit_loop, "on_advance_end", self.after_epoch)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stored:
            restore_random_states(self.stored["random"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:  # the first goes on with the sums of all
            self.stored = {}
        for name, states in self.stored.get("metrics", {}).items():
            metric = pl_module.get_submodule(name)
            for state, value in states.items():
                setattr(metric, state, value.to(pl_module.device) if isinstance(value, torch.Tensor) else value)
        self.due = time.monotonic() + self.seconds
        cluster = trainer._accelerator_connector.cluster_environment
        if isinstance(cluster, SLURMEnvironment) and cluster.auto_requeue and cluster.requeue_signal:
            self.requeue_signal = cluster.requeue_signal
        numbers = {*SIGNALS, *([self.requeue_signal] if self.requeue_signal else [])}
        if threading.current_thread() is not threading.main_thread():  # which alone may have handlers
            numbers = set()
        self.handlers = {number: signal.signal(number, self.ask_to_stop) for number in numbers}  # over Lightning's

    def ask_to_stop(self, number: int, frame: Any) -> None:
        """The first time, all processes stop after the step; the second time, at once.

        The first is not passed on: a terminal sends Ctrl-C to all of them, and two would be the second time.
        """
        if self.stop_signal is None:
            self.stop_signal = number
            return
        if launcher := self.trainer.strategy.launcher:
            launcher.kill(number)
        raise KeyboardInterrupt

    def stop(self) -> NoReturn:
        if self.stop_signal is None:
            self.stop_signal = signal.SIGTERM  # it was another process that was asked
        self.answer_slurm()
        raise SIGTERMException

    def answer_slurm(self) -> None:
        """Has the job start again, where SLURM asked this one to end before its time is up."""
        if self.requeue_signal and self.stop_signal == self.requeue_signal and self.trainer.is_global_zero:
            requeue()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Adds the sums of before to those of the first step of a resumed epoch, or of the first that is logged."""
        stored, results = self.stored.get("sums", {}), trainer.fit_loop.epoch_loop._results
        for key in [key for key in stored if key in results]:
            for name, value in stored.pop(key).items():
                setattr(results[key], name, getattr(results[key], name) + value.to(results[key].value.device))

    def after_step(self, fetcher: Any) -> None:
        loop = self.trainer.fit_loop.epoch_loop
        if loop.batch_progress.is_last_batch or loop.done:
            return  # the epoch's end is near: after_epoch
        if loop._should_accumulate() or loop._should_check_val_fx(fetcher):
            return  # states that Lightning does not go on from exactly
        if self.trainer.world_size > 1 and loop.global_step % AGREE_EVERY:
            return
        stop = self.any_process(self.stop_signal is not None)
        if stop or self.any_process(time.monotonic() > self.due):
            self.save()
        if stop:
            self.stop()

    def after_epoch(self) -> None:
        self.stored.pop("sums", None)
        self.epoch_over = True
        self.save()
        self.epoch_over = False
        if self.any_process(self.stop_signal is not None) and not self.trainer.fit_loop.done:
            self.stop()

    def any_process(self, wants: bool) -> bool:
        if self.trainer.world_size > 1:
            return self.trainer.strategy.reduce_boolean_decision(wants, all=False)
        return wants

    def save(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # set from outside
            if isinstance(callback, FiniteLoss):
                callback.check_weights(self.trainer, self.module)
        for logger in self.trainer.loggers:
            logger.save()
        last = self.directory / LAST
        if last.exists() and self.trainer.is_global_zero:
            os.replace(last, self.directory / PREVIOUS)
        self.trainer.save_checkpoint(last)
        self.last_model_path = str(last)
        self.due = time.monotonic() + self.seconds

    def state_dict(self) -> dict[str, Any]:
        metrics = {name: part for name, part in self.module.named_modules() if isinstance(part, Metric)}
        sums = {
            key: {name: self.total(getattr(result, name)) for name in result._defaults}
            for key, result in self.trainer.fit_loop.epoch_loop._results.items()
            if result.is_tensor and result.meta.on_epoch and not result.has_reset
        }
        return {
            "random": random_states(),
            "metrics": {
                name: {
                    **{state: self.total(value) for state, value in one.metric_state.items()},
                    "_update_count": one._update_count,
                }
                for name, one in metrics.items()
            },
            "sums": sums,
            "lines": self.lines(),
        }

    def total(self, value: Any) -> Any:
        """Over all processes."""
        if self.trainer.world_size > 1 and isinstance(value, torch.Tensor):
            return self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
        return value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stored = dict(state_dict)

    def lines(self) -> int:
        """Of ``metrics.csv``, with its header; on disk from here on."""
        logger = find_csv_logger(self.trainer)
        if logger is None or not (file := Path(logger.log_dir) / METRICS).exists():
            return 0
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
            return opened.read().count(b"\n")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.epoch_over:  # Lightning would take the epoch's counts for the next one's
            loops = checkpoint["loops"]["fit_loop"]
            for name, progress in loops.items():
                if name.startswith("epoch_loop."):
                    forget_current(progress)
            loops["state_dict"]["combined_loader"] = [{"batch": 0} for _ in loops["state_dict"]["combined_loader"]]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.let_go(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.let_go(trainer)

    def let_go(self, trainer: Trainer) -> None:
        """Of the signals and of the Trainer's loops."""
        for number, handler in self.__dict__.pop("handlers", {}).items():
            signal.signal(number, handler)
        for loop in (trainer.fit_loop.epoch_loop, trainer.fit_loop):
            loop.__dict__.pop("on_advance_end", None)


def requeue() -> None:
    """Has SLURM start this job again."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(f"SLURM did not requeue job {job}: {error}", stacklevel=2)


def written(directory: Path) -> list[Path]:
    """What there is of the last checkpoint and the one before."""
    return [file for name in (LAST, PREVIOUS) if (file := directory / name).exists()]


def newest_whole(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint that can be read, and what it holds; says which could not. None where none was written.

    Raises:
        InputError: all are damaged.
    """
    files = written(directory)
    for file in files:
        try:
            return file, load_checkpoint(file)
        except InputError as error:
            warnings.warn(f"{error}; going on from the one before", stacklevel=2)
    if files:
        raise InputError(f"{directory} has no checkpoint to go on from: {' and '.join(map(str, files))} are damaged")
    return None


def follow(owner: Any, method: str, then: Callable[..., None]) -> None:
    """Has every call of ``owner.method`` followed by ``then``, with the same arguments."""
    first = getattr(owner, method)

    def both(*args: Any) -> None:
        first(*args)
        then(*args)

    setattr(owner, method, both)


def forget_current(progress: dict[str, Any]) -> None:
    """Sets what a loop's progress counts within the epoch to its start."""
    for name, value in progress.items():
        if name == "current":
            progress[name] = dict.fromkeys(value, 0)
        elif name == "is_last_batch":
            progress[name] = False
        elif isinstance(value, dict):
            forget_current(value)
