"""A Weights & Biases logger that can fail without taking the run with it."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger

from lightning_cifar.errors import reason

WandbMode = Literal["auto", "online", "offline"]
# Seconds. wandb's own 90 would hold up the start of a run whose network is down; its end it would hold up for good.
INIT_TIMEOUT, FINISH_TIMEOUT = 30, 60


class SafeLogger(WandbLogger):
    """Lightning's; when wandb fails, it says so once and is silent from then on."""

    broken = False

    def attempt(self, method: Callable[..., Any], *args: Any, **options: Any) -> None:
        if not self.broken:
            try:
                method(*args, **options)
            except Exception as error:  # its process died, say
                self.broken = True
                warnings.warn(f"W&B failed, and is told no more of this run: {reason(error)}", stacklevel=2)

    def log_metrics(self, *args: Any, **options: Any) -> None:
        self.attempt(super().log_metrics, *args, **options)

    def log_hyperparams(self, *args: Any, **options: Any) -> None:
        self.attempt(super().log_hyperparams, *args, **options)

    def save(self) -> None:
        self.attempt(super().save)

    def finalize(self, status: str) -> None:
        self.attempt(super().finalize, status)


def earlier_run(run_dir: Path) -> tuple[WandbMode, str] | None:
    """Mode and id of the W&B run that the run in ``run_dir`` was logged to last, before it was stopped."""
    # By wandb's own names: run-20261125_075737-kat5omc0, and offline-run-... likewise.
    names = sorted((path.name for path in run_dir.glob("wandb/*run-*-*")), key=lambda name: name.split("run-")[1])
    if not names:
        return None
    return "offline" if names[-1].startswith("offline-") else "auto", names[-1].rsplit("-", 1)[1]


def wandb_logger(mode: WandbMode, run_dir: Path, name: str) -> WandbLogger | None:
    """A logger that writes below ``run_dir``, or None, with a warning, where wandb cannot be used at all.

    A run that goes on is logged to the W&B run that it was logged to before.

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
    wanted: Any = os.environ.get("WANDB_MODE", "online") if mode == "auto" else mode
    earlier = earlier_run(run_dir)
    for chosen in dict.fromkeys([wanted, "offline"]):
        try:
            if chosen != "online" or wandb.login(prompt=False, verify=False):
                settings = wandb.Settings(
                    init_timeout=INIT_TIMEOUT,
                    finish_timeout=FINISH_TIMEOUT,
                    silent=True,
                    disable_git=True,
                    x_save_requirements=False,
                )
                same: dict[str, Any] = {"id": earlier[1], "resume": "allow"} if earlier else {}
                if chosen == "offline":
                    same.pop("resume", None)  # `wandb sync` joins what has one id
                run = wandb.init(
                    project="lightning-cifar", name=name, dir=run_dir, mode=chosen, settings=settings, **same
                )
                return SafeLogger(experiment=run)
            why = "no API key; after `wandb login`, `wandb sync` sends what was logged"
        except Exception as error:  # whatever it is, the run is worth more than its dashboard
            why = reason(error)
        warnings.warn(f"W&B is not {chosen}: {why}", stacklevel=2)
    return None


def finish(logger: WandbLogger) -> None:
    """Sends what is left and ends the run, so that a second run in this process is not its continuation."""
    try:
        logger.experiment.finish()
    except Exception as error:
        warnings.warn(f"W&B could not finish the run: {reason(error)}", stacklevel=2)
