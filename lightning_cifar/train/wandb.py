"""A Weights & Biases logger that can fail without taking the run with it."""

import os
import warnings
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger

WandbMode = Literal["auto", "online", "offline"]
INIT_TIMEOUT = 30  # seconds; wandb's own 90 would hold up the start of a run whose network is down


def wandb_logger(mode: WandbMode, run_dir: Path, name: str) -> WandbLogger | None:
    """A logger that writes below ``run_dir``, or None, with a warning, where wandb cannot be used at all.

    Args:
        mode: ``online``, ``offline``, or ``auto``: online where an API key is known, else offline. The environment
            variable WANDB_MODE wins over ``auto``.
        run_dir: directory of the run.
        name: name of the run on the dashboard.
    """
    try:
        import wandb
    except ImportError:
        warnings.warn("wandb is not installed, so nothing is sent: pip install wandb", stacklevel=2)
        return None
    chosen: Any = os.environ.get("WANDB_MODE", "online") if mode == "auto" else mode
    if chosen == "online" and not wandb.login(prompt=False, verify=False):
        warnings.warn("no W&B API key: logging offline; after `wandb login`, `wandb sync` sends the run", stacklevel=2)
        chosen = "offline"
    for attempt in dict.fromkeys([chosen, "offline"]):
        try:
            run = wandb.init(
                project="lightning-cifar",
                name=name,
                dir=run_dir,
                mode=attempt,
                settings=wandb.Settings(
                    init_timeout=INIT_TIMEOUT, silent=True, disable_git=True, x_save_requirements=False
                ),
            )
        except wandb.Error as error:
            warnings.warn(f"W&B {attempt} failed, the run goes on: {str(error).splitlines()[0]}", stacklevel=2)
        else:
            return WandbLogger(experiment=run)
    return None
