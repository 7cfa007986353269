"""LastCheckpoint: the checkpoint from which a stopped run resumes exactly, to the bit on a CPU.

Lightning's checkpoints lack the random generators, the epoch's metrics so far and the length of ``metrics.csv``, and
are taken within a step, before the step is logged. These are taken between two steps.
"""

import os
import signal
import subprocess
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.errors import check_range
from lightning_cifar.run.checkpoints import resume
from lightning_cifar.run.checkpoints.checkpoint_files import LAST, PREVIOUS, keep_own_files
from lightning_cifar.run.checkpoints.random_state import get_random_states, restore_random_states
from lightning_cifar.run.guards import FiniteLoss
from lightning_cifar.run.process.exit_status import explain_checkpoint
from lightning_cifar.run.process.output import drop_broken_output, leave_terminal, outlive_readers, restore_output
from lightning_cifar.run.records.metrics_csv import count_lines

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGREE_EVERY = 20  # steps between two synchronisations of all processes
COPY_SECONDS = 1  # `timeout` and a terminal that closes send a signal twice at once; users take longer
EPOCH_SECONDS = 30  # least time between two checkpoints at the ends of epochs; an epoch may be as short as a save


class LastCheckpoint(Checkpoint):
    """Write ``checkpoints/last.ckpt`` at the end of training, before SIGTERM, SIGINT or SIGHUP end it, and in between.

    In between, a checkpoint is written at the end of an epoch if 30 seconds have passed since the last one, and within
    an epoch after ``minutes``. The previous one is kept as ``previous.ckpt``, in case the last one is damaged. Both lie
    in the directory of the first logger.

    Args:
        minutes: least time between two checkpoints within an epoch, at least 0; 0 saves after each step from which
            training can resume exactly. Several processes save at every 20th step.
    """

    def __init__(self, minutes: float = 10.0) -> None:
        check_range("minutes", minutes, "[0, inf]")
        self.seconds = 60 * minutes
        self.stop_signal: int | None = None
        self.requeue_signal: int | None = None  # SLURM's, before a job's time is up
        self.last_model_path = self.best_model_path = ""  # for Lightning, as of its ModelCheckpoint
        self.stored: dict[str, Any] = {}
        self.epoch_over = self.ended_early = self.postponed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.trainer, self.module = trainer, pl_module
            self.stop_signal, self.stored = None, {}  # of an earlier fit
            self.last_model_path, self.postponed = "", False
            self.directory = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
            resume.follow(trainer.fit_loop.epoch_loop, self.after_step)
            resume.follow(trainer.fit_loop, self.after_epoch)
            outlive_readers(lambda: self.on_signal(signal.SIGPIPE, None))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stored:
            with explain_checkpoint(trainer.ckpt_path):
                restore_random_states(self.stored["random"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        resume.check_types("loops.fit_loop", checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict())
        resume.end_epoch(checkpoint)
        resumes = Path(str(trainer.ckpt_path)).parent.resolve() == self.directory.resolve()
        for callback in find_callbacks(trainer, ModelCheckpoint):
            if state := checkpoint["callbacks"].get(callback.state_key):
                state |= keep_own_files(state, Path(str(callback.dirpath)), resumes)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if resume.is_accumulating(trainer):  # gradients half accumulated are in no checkpoint
            self.postponed |= trainer.should_stop
            trainer.should_stop = False
        elif self.postponed:
            trainer.should_stop, self.postponed = True, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        resume.begin_epoch(trainer)
        if self.stored.get("ended_early"):
            resume.continue_after_validation(trainer)
        if not trainer.is_global_zero:  # rank 0 has the sums of all processes
            self.stored = {}
        with explain_checkpoint(trainer.ckpt_path):
            resume.restore_metric_states(pl_module, self.stored.get("metrics", {}))
            if trainer.ckpt_path and not isinstance(trainer.strategy, FSDPStrategy):  # of which each rank has a shard
                resume.try_step(trainer)
        self.saved_at = time.monotonic()
        self.requeue_signal = resume.find_requeue_signal(trainer)
        numbers = {*SIGNALS, *([self.requeue_signal] if self.requeue_signal else [])}
        if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
            numbers = set()
        elif signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` ignores it
            numbers.add(signal.SIGHUP)
        self.handlers = {number: signal.signal(number, self.on_signal) for number in numbers}  # over Lightning's

    def on_signal(self, number: int, frame: Any) -> None:
        """Stop all processes after this step; on a second signal, but for SIGHUP and a broken output, at once.

        The first signal is not passed on to other processes: a terminal sends Ctrl-C to all of them, and each would
        take the copy for the second.
        """
        if number == signal.SIGHUP:
            leave_terminal()
        if self.stop_signal is None:
            self.stop_signal, self.stopped_at = number, time.monotonic()
            return
        if number in (signal.SIGHUP, signal.SIGPIPE) or time.monotonic() - self.stopped_at < COPY_SECONDS:
            return
        if launcher := self.trainer.strategy.launcher:
            launcher.kill(number)
        raise KeyboardInterrupt

    def after_step(self, fetcher: Any) -> None:
        if self not in find_callbacks(self.trainer, LastCheckpoint):  # a trial, of LearningRateFinder
            return
        # The sums from before a stop are added once a value is logged again in this epoch.
        with explain_checkpoint(self.trainer.ckpt_path):
            resume.add_epoch_sums(self.trainer, self.stored.get("sums", {}))
        self.ended_early = resume.ends_within_epoch(self.trainer)
        if self.ended_early:
            self.save()  # now: the end of training is to be no end of the epoch
            return
        if not resume.is_resumable(self.trainer, fetcher):
            return
        if self.trainer.world_size > 1 and self.trainer.fit_loop.epoch_loop.global_step % AGREE_EVERY:
            return
        stop = self.in_any_process(self.stop_signal is not None)
        if stop or self.is_due(self.seconds):
            self.save()
        if stop:
            self.stop()

    def after_epoch(self) -> None:
        if self not in find_callbacks(self.trainer, LastCheckpoint):  # as in `after_step`
            return
        self.stored.pop("sums", None)
        stop, ends = self.in_any_process(self.stop_signal is not None), self.trainer.fit_loop.done
        if not self.ended_early and (stop or ends or self.is_due(min(EPOCH_SECONDS, self.seconds))):
            self.save_after_epoch()
        if stop and not ends:
            self.stop()

    def is_due(self, seconds: float) -> bool:
        """Return whether any process has counted this many seconds since the last checkpoint."""
        return self.in_any_process(time.monotonic() - self.saved_at >= seconds)

    def in_any_process(self, condition: bool) -> bool:
        if self.trainer.world_size > 1:
            return self.trainer.strategy.reduce_boolean_decision(condition, all=False)
        return condition

    def stop(self) -> NoReturn:
        if self.stop_signal is None:
            self.stop_signal = signal.SIGTERM  # another process received the signal
        self.requeue_if_asked()
        raise SIGTERMException

    def requeue_if_asked(self) -> None:
        """Requeue the job if SLURM announced the end of its time."""
        if self.requeue_signal and self.stop_signal == self.requeue_signal and self.trainer.is_global_zero:
            requeue_slurm_job()

    def save_after_epoch(self) -> None:
        """Save a checkpoint that begins the next epoch."""
        self.epoch_over = True
        try:
            self.save()
        finally:
            self.epoch_over = False

    def save(self) -> None:
        for callback in find_callbacks(self.trainer, FiniteLoss):
            callback.check_weights(self.trainer, self.module)
        for logger in self.trainer.loggers:
            logger.save()
        last = self.directory / LAST
        # One that was neither written nor loaded here may be damaged, and previous.ckpt the only good one.
        known = filter(os.path.isfile, (self.last_model_path, str(self.trainer.ckpt_path)))
        if self.trainer.is_global_zero and last.exists() and any(map(last.samefile, known)):
            os.replace(last, self.directory / PREVIOUS)
        self.trainer.save_checkpoint(last)
        self.last_model_path = str(last)
        self.saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        if not hasattr(self, "module"):  # it has not trained
            return {}
        reduce = partial(resume.sum_over_processes, self.trainer)
        # ModelCheckpoint saves in a validation, where these sums are those of an epoch that nearly is over.
        within = self.trainer.training and not resume.is_last_step(self.trainer)
        return {
            "random": get_random_states(),
            "metrics": resume.collect_metric_states(self.module, reduce) if within else {},
            "sums": resume.collect_epoch_sums(self.trainer, reduce) if within else {},
            "lines": count_lines(self.trainer),
            "ended_early": self.ended_early,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stored = dict(state_dict)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.epoch_over:
            resume.start_next_epoch(checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # These averages become the model's weights only now.
        if find_callbacks(trainer, StochasticWeightAveraging) and not self.ended_early:
            self.save_after_epoch()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        best = [one.best_model_path for one in find_callbacks(trainer, ModelCheckpoint)]
        self.best_model_path = best[0] if best else self.last_model_path
        self.release(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release(trainer)

    def release(self, trainer: Trainer) -> None:
        """Restore the signal handlers, the output and the Trainer's loops."""
        restore_output()
        if self.stop_signal is not None:
            drop_broken_output()  # Ctrl-C has ended `tee` too
        for number, handler in self.__dict__.pop("handlers", {}).items():
            signal.signal(number, handler)
        resume.stop_following(trainer)


def requeue_slurm_job() -> None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(f"SLURM did not requeue job {job}: {error}", stacklevel=2)
