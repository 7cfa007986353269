"""``run.json``, the record of a run: command, versions, device, commit, seed, data, timings, last metrics."""

import datetime
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError, reason
from lightning_cifar.files import read_lines, write_json
from lightning_cifar.run.accumulation import count_epoch_steps
from lightning_cifar.run.records.stored_files import DAMAGED, RECORD, read_json

PACKAGES = ("lightning-cifar", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "pillow")


class RunRecord(Callback):
    """Write ``run.json`` when a stage starts, and again with its timings when the stage ends.

    ``fit_seconds`` is the wall-clock time from the start of training to its end, including validation and checkpoints.
    It adds up over resumes. If the process was killed, the time after its last checkpoint is missing.

    Args:
        directory: existing directory to write to.
        command: words of the command line.
        recipe: name of the recipe.
        init_from: file and SHA-256 of the weights that training started from; None: new ones.
    """

    def __init__(
        self,
        directory: str,
        command: Sequence[str] = (),
        recipe: str | None = None,
        init_from: dict[str, str] | None = None,
    ) -> None:
        self.file = Path(directory) / RECORD
        self.command = list(command)
        self.recipe = recipe
        self.init_from = init_from
        self.fit_seconds = 0.0
        self.fit_started: float | None = None  # minus the seconds of earlier parts; None: not training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.started, self.resumes = time.perf_counter(), self.file.exists()  # else a checkpoint is another run's
        earlier = read_earlier(self.file)
        self.record: dict[str, Any] = {
            "command": earlier.get("command", self.command),  # the first: it names recipe and options
            "stage": trainer.state.fn.value if trainer.state.fn else None,
            "recipe": self.recipe,
            "init_from": earlier.get("init_from", self.init_from),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": torch.initial_seed(),
            "precision": trainer.precision,
            "git_commit": find_commit(),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "device": describe_device(trainer.strategy.root_device),
            "data": describe_data(trainer),
            "mlflow_run": find_mlflow_run(trainer) or earlier.get("mlflow_run"),
        }
        if trainer.world_size > 1:
            found: list[dict[str, Any] | None] = [None] * trainer.world_size
            dist.all_gather_object(found, self.record["data"])
            check_same_data(found)
        # The records of a resumed run before each resume, oldest first.
        self.record["resumed"] = [*earlier.pop("resumed", []), earlier] if earlier else []
        self.fit_seconds = earlier.get("timings", {}).get("fit_seconds", 0.0)
        before, now = (one.get("data") or {} for one in (earlier, self.record))
        if before and before.get("fingerprint") != now.get("fingerprint"):
            changes = (f"{str(one.get('fingerprint'))[:12]} {when}" for one, when in ((before, "before"), (now, "now")))
            print(f"changed: the data (fingerprint {', '.join(changes)})")
        self.write(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fit_started = time.perf_counter() - self.fit_seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.fit_seconds, self.fit_started = self.count_fit_seconds(), None

    def count_fit_seconds(self) -> float:
        """Return ``fit_seconds`` so far."""
        return self.fit_seconds if self.fit_started is None else time.perf_counter() - self.fit_started

    def state_dict(self) -> dict[str, Any]:
        return {"fit_seconds": self.count_fit_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.resumes:
            self.fit_seconds = max(self.fit_seconds, state_dict["fit_seconds"])  # run.json lacks these after a kill

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.record["timings"] = {"total_seconds": round(time.perf_counter() - self.started, 3)}
        if stage == "fit":
            self.record["timings"] |= {"fit_seconds": round(self.count_fit_seconds(), 3)}
            self.record["timings"] |= {"epochs": count_trained_epochs(trainer), "steps": trainer.global_step}
            self.record["timings"] |= {"steps_per_epoch": count_epoch_steps(trainer)}
        logged = trainer.callback_metrics.items()
        metrics = {name: float(value) for name, value in logged if not name.endswith("_step")}
        before: dict[str, Any] = next(reversed(self.record["resumed"]), {})
        self.record["metrics"] = metrics or before.get("metrics", {})  # a complete run that is resumed logs none
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the record; Lightning skips `teardown` after an exception, and `setup` if the exception came early."""
        if not hasattr(self, "record"):
            return
        self.record["ended"] = type(exception).__name__
        self.teardown(trainer, pl_module, "fit" if trainer.state.fn == "fit" else "")

    def write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            write_json(self.file, self.record)


def read_earlier(file: Path) -> dict[str, Any]:
    """Return the record of the run to resume; empty if there is none, or a damaged one."""
    if not file.is_file():
        return {}
    try:
        earlier = read_json(file)
        for one in [earlier, *earlier.get("resumed", [])]:
            dict(one.get("data") or {})
            sum([one.get("timings", {}).get("fit_seconds", 0)])  # refuses text
        return dict(earlier)
    except DAMAGED as error:
        print(f"{file} is damaged and is written anew ({reason(error)})")
        return {}


def count_trained_epochs(trainer: Trainer) -> float:
    """Return the epochs trained so far; training that ended within an epoch counts the share of its batches."""
    batches, loop = trainer.num_training_batches, trainer.fit_loop
    if batches in (0, math.inf) or not (taken := loop.epoch_loop.batch_progress.current.ready):
        return trainer.current_epoch
    done = round(loop.epoch_progress.current.ready - 1 + taken / batches, 4)
    return int(done) if done == int(done) else done


def read_record_entry(run_dir: Path, kind: str) -> str | None:
    """Return a name in the ``run.json`` of a directory, such as ``recipe`` or ``mlflow_run``; None if there is none."""
    try:
        name = read_json(run_dir / RECORD)[kind]
    except (OSError, *DAMAGED):
        return None
    return name if isinstance(name, str) else None


def find_mlflow_run(trainer: Trainer) -> str | None:
    """Return the identifier of the MLflow run that training is logged to, by which a resumed run continues it."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return next((one.run_id for one in loggers if isinstance(one, MLFlowLogger)), None)


def count_trained_steps(run_dir: Path) -> int:
    """Return the number of steps of a run at the last time that it ended in order, or by a signal; else 0."""
    earlier = read_earlier(run_dir / RECORD)
    for one in [earlier, *reversed(earlier.get("resumed", []))]:
        steps = one.get("timings", {}).get("steps")
        if isinstance(steps, int) and one.get("ended") in (None, SIGTERMException.__name__):
            return steps
    return 0


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return type and name of a device, with the CUDA version of a GPU or the cores and threads of a CPU."""
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {"type": device.type, "name": find_cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def find_cpu_name() -> str:
    """Return the model name of the CPU, as far as the operating system knows it."""
    lines = (line.partition(":") for line in read_lines(Path("/proc/cpuinfo")))
    names = (value.strip() for key, _, value in lines if key.strip() == "model name")
    return next(names, "") or platform.processor() or platform.machine()


def describe_data(trainer: Trainer) -> dict[str, Any] | None:
    """Return source, split sizes and fingerprint of a `CIFAR10DataModule`'s data; None for other loaders."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, CIFAR10DataModule):
        return None
    return {
        "dataset": data.hparams["dataset"],
        "root": str(data.root),
        "train": len(data.train),
        data.hparams["held_out"]: len(data.val),
        "test": len(data.test),
        "image_size": data.hparams["image_size"],
        "split": data.dataset.split,
        "fingerprint": data.dataset.fingerprint(),
    }


def check_same_data(found: Sequence[dict[str, Any] | None]) -> None:
    """Raise `InputError` if processes hold different data: they would wait for each other's batches without end.

    ``found`` holds `describe_data` of each rank; every process has the same list.
    """
    first, *others = found
    for rank, data in enumerate(others, start=1):
        for name, value in (data or {}).items():
            if name != "root" and first and value != first[name]:
                differs = f"{name} {value}, not {first[name]}"
                raise InputError(
                    f"rank {rank} holds other data than rank 0 ({differs}): give each machine the same files"
                )


def find_commit() -> str | None:
    """Return the commit of the checkout this file belongs to, with ``-dirty`` if files differ; None if installed."""

    def run_git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        run_git("ls-files", "--error-unmatch", Path(__file__).name)  # an error if installed
        return run_git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
