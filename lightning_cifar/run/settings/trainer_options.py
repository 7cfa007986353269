"""Checks of the Trainer's options and callbacks, before anything is written."""

import math
import os
import re
from collections.abc import Sequence
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.steps import count_batches
from lightning_cifar.errors import InputError, check_range, format_count

# Options of the Trainer that Lightning does not check, or for which it trains nothing without a line.
RANGES = {
    "[1, inf)": ("check_val_every_n_epoch", "accumulate_grad_batches"),
    "(0, inf)": ("limit_train_batches",),
    "[0, inf]": ("log_every_n_steps", "gradient_clip_val"),
}


def check_ranges(trainer: dict[str, Any], trains: bool) -> None:
    """Raise `InputError` for the first option of the Trainer whose value cannot be used, or trains nothing."""
    for interval, names in RANGES.items():
        for name in names:
            if trainer[name] is not None and (trains or name != "limit_train_batches"):
                check_range(f"--trainer.{name}", trainer[name], interval, whole=interval == "[1, inf)")
    interval = trainer["val_check_interval"]
    if isinstance(interval, int | float):
        check_range("--trainer.val_check_interval", interval, "(0, inf)")
    for name in ("max_epochs", "max_steps"):
        if trains and trainer[name] == 0:
            raise InputError(f"--trainer.{name} 0 trains nothing: set at least 1, or -1 for no limit")
    if isinstance(limit := trainer["max_time"], str):
        if not re.fullmatch(r"\d+(:\d\d){3}", limit.strip()):
            raise InputError(f"--trainer.max_time {limit}: write days, hours, minutes and seconds, such as 00:01:30:00")
        if trains and not limit.strip(" 0:"):
            raise InputError(f"--trainer.max_time {limit} trains nothing: set at least a second, or null for no limit")


def check_overfit_batches(share: float, data: CIFAR10DataModule) -> None:
    """Raise `InputError` if ``--trainer.overfit_batches`` is a share of less than one batch of ``data``.

    Lightning would name ``limit_val_batches``, which it overwrites.
    """
    counts = {"training": count_batches(data), "validation": math.ceil(len(data.val) / data.hparams["eval_batch_size"])}
    for kind, batches in counts.items():
        if 0 < share * batches < 1:
            less = f"less than one of {format_count(batches, f'{kind} batch', f'{kind} batches')}"
            raise InputError(f"--trainer.overfit_batches {share} is {less}: name a number of batches, such as 1")


def check_monitors(callbacks: Sequence[Callback], held_out: str, validates: bool) -> None:
    """Raise `InputError` if a callback takes the worst value for the best, or watches a metric that nothing logs.

    A callback of the user may log any.
    """
    if any(not type(one).__module__.startswith(("lightning.", "lightning_cifar.")) for one in callbacks):
        return
    logged = [f"train/{kind}" for kind in ("loss", "accuracy")]
    logged += [f"{held_out}/{kind}" for kind in ("loss", "accuracy")] if validates else []
    known = {*logged, *(f"train/{kind}_{over}" for kind in ("loss", "accuracy") for over in ("step", "epoch"))}
    for one in callbacks:
        monitor = getattr(one, "monitor", None) if isinstance(one, EarlyStopping | ModelCheckpoint) else None
        if monitor and monitor not in known and not monitor.startswith(("gates/", "time/", "lr-")):
            raise InputError(f"{type(one).__name__} monitors {monitor}, which is never logged: {', '.join(logged)} are")
        wanted = "max" if "accuracy" in str(monitor) else "min"
        if monitor in known and one.mode != wanted:  # type: ignore[attr-defined]  # one of these classes
            raise InputError(f"{type(one).__name__} takes the worst {monitor} for the best: set its mode to {wanted}")


def check_checkpoints(callbacks: Sequence[Callback], starts: bool) -> None:
    """Raise `InputError` if a ModelCheckpoint would write over the checkpoint that every run has.

    Or if the run ``starts`` and Lightning would continue from the checkpoint of an earlier exception.
    """
    for one in callbacks:
        if isinstance(one, OnExceptionCheckpoint) and starts and os.path.exists(one.ckpt_path):
            raise InputError(f"training would start from {one.ckpt_path} of an earlier run: delete it")
        if isinstance(one, ModelCheckpoint) and not one.dirpath and (one.save_last or one.filename == "last"):
            raise InputError(
                "ModelCheckpoint would write checkpoints/last.ckpt, which every run has anyway: leave save_last out, "
                "or name another filename or dirpath"
            )
