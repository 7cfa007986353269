"""Runs of a series, such as the seeds of ``repeat``: equal settings except a few, in directories side by side."""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.errors import InputError, reason
from lightning_cifar.files import write_whole
from lightning_cifar.run.checkpoints.last_checkpoint import LastCheckpoint
from lightning_cifar.run.job import Job, choose_precision, load_data
from lightning_cifar.run.process.exit_status import explain, find_stop
from lightning_cifar.run.process.launcher import list_indices
from lightning_cifar.run.records.stored_files import DAMAGED
from lightning_cifar.run.settings.changes import WITHOUT_EFFECT, find_differences
from lightning_cifar.run.settings.ineffective import list_ineffective
from lightning_cifar.run.settings.shell import quote_path
from lightning_cifar.run.trainer import Run, train
from lightning_cifar.sources.locks import one_at_a_time
from lightning_cifar.train.checkpoint import load_checkpoint

TOP = ("seed_everything", "init_from")  # options without a group that make another run
# Settings that data and timing decide later, with their values until then.
UNDECIDED = (("trainer", "precision", "auto"), *(("model", name, None) for name in ("class_names", "mean", "std")))


def list_resume_options(directory: Path) -> list[str]:
    """Return the options that resume the run in ``directory``; none if it has not started."""
    return ["--resume", str(directory)] if (directory / "config.yaml").exists() else []


@contextmanager
def explain_stop(describe_place: Callable[[], str], parent: Path) -> Iterator[None]:
    """If a signal ends the process, print in which run it was, and how the series in ``parent`` is resumed."""
    try:
        yield
    except BaseException as error:
        if (stop := find_stop(error)) is None or (isinstance(error, Exception) and explain(error)[0] is not None):
            raise
        how = f"the same command with --run_dir {quote_path(parent)}"
        print(f"stopped {describe_place()}; to resume: {how}", file=sys.stderr)
        raise stop from None


def prepare(job: Job, parent: Path, kind: str, advice: str, may_differ: Collection[str]) -> None:
    """Load the data and choose the precision of a run; refuse what does not suit the series in ``parent``.

    Options without effect are printed in the first run of a process, which reads the data. The arguments are those of
    `refuse_unsuitable` and `refuse_other_settings`.
    """
    refuse_unsuitable(job, kind, advice)
    is_first = job.data.loaded is None
    load_data(job)
    if is_first:
        for line in list_ineffective(job.typed, job.settings, job.data):
            print(f"note: {line}", flush=True)
    choose_series_precision(job, parent, kind)
    refuse_other_settings(job, parent, kind, may_differ)


def refuse_unsuitable(job: Job, kind: str, advice: str) -> None:
    """Raise `InputError` if the settings do not suit a series.

    ``kind`` is what a run is called: ``seed``, ``trial``; ``advice`` is for users who ask for several devices.
    """
    for name in ("barebones", "fast_dev_run"):
        if job.trainer[name]:
            raise InputError(f"--trainer.{name} {job.trainer[name]}: nothing would be recorded; a {kind} needs it off")
    devices = job.trainer["devices"]
    if devices not in (1, "1") and len(list_indices(devices)) != 1:
        raise InputError(f"--trainer.devices {devices}: a {kind} is trained on one device; {advice}")


def choose_series_precision(job: Job, parent: Path, kind: str) -> None:
    """Choose the precision as the first run of the series did: another timing, or process, could choose differently."""
    if job.trainer["precision"] != "auto":
        return
    chosen = parent / ".precision"
    with one_at_a_time(parent / ".precision.lock", "measures the precision"):
        if stored := next(read_settings(parent, kind), None):
            job.set_trainer_option("precision", job.complete(stored)["trainer"]["precision"])
        elif chosen.exists():
            job.set_trainer_option("precision", chosen.read_text())
        else:
            choose_precision(job)
            write_whole(chosen, str(job.trainer["precision"]).encode())


def refuse_other_settings(job: Job, parent: Path, kind: str, may_differ: Collection[str]) -> None:
    """Raise `InputError` if settings differ from those of an earlier run of the series, except where it may be.

    Settings that data or timing have not decided yet are not compared.
    """
    settings = yaml.safe_load(job.dump())
    if job.data.loaded is None and job.leaves_to_data("data.batch_size"):
        del settings["data"]["batch_size"]
    for group, name, undecided in UNDECIDED:
        if settings[group][name] == undecided:
            del settings[group][name]
    for stored in read_settings(parent, kind):
        completed = job.complete(stored)
        top = ((name, settings[name], completed.get(name)) for name in TOP)
        for name, value, other in (*top, *find_differences(settings, completed)):
            if value != other and name not in {*may_differ, *WITHOUT_EFFECT}:
                raise InputError(f"--{name} {value}: the {kind}s in {parent} are trained with {other}")


def read_settings(parent: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the settings of every run of the series that has started; `InputError` if a file is damaged."""
    for file in sorted(parent.glob(f"{kind}*/config.yaml")):
        yield read_run_config(file, file.stat().st_mtime_ns)


@cache  # each run reads those of all before; a file that was replaced has another time
def read_run_config(file: Path, modified: int) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(file.read_text()))
    except DAMAGED as error:
        raise InputError(f"{file} is damaged ({reason(error)}): delete its directory, or name another one") from error


def train_in_series(job: Job, run: Run) -> None:
    """Train; a signal during the last validation ends the command too, for what follows takes time.

    The model then has the weights of the last checkpoint, in float32.
    """
    train(job, run)
    job.model.float()
    if run.checkpoint is not None and run.trainer.global_step == run.steps_before:
        # Nothing was left to train. Where a callback averages the weights, Lightning has restored those of training.
        job.model.load_state_dict(load_checkpoint(run.checkpoint)["state_dict"])
    for callback in find_callbacks(run.trainer, LastCheckpoint):
        if callback.stop_signal is not None:
            callback.requeue_if_asked()
            raise SystemExit(128 + callback.stop_signal)
