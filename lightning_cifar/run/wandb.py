"""A Weights & Biases logger that can fail without taking the run with it, and tells no more than is asked for."""

import datetime
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning.pytorch.loggers import WandbLogger

from lightning_cifar.errors import reason

WandbMode = Literal["auto", "online", "offline"]
# Seconds. wandb's own 90 would hold up the start of a run whose network is down; its end it would hold up for good.
INIT_TIMEOUT, FINISH_TIMEOUT = 30, 60
# wandb's settings, where the environment does not say otherwise (WANDB_PROJECT, WANDB_CONSOLE, WANDB__DISABLE_META).
SETTINGS = {
    "project": "lightning-cifar",
    "silent": True,
    "console": "off",  # no output of the terminal, which names directories
    "disable_git": True,  # neither commit nor differences
    "host": "",
    "save_code": False,
    "x_disable_meta": True,  # neither the command line, nor paths, user and hardware
    "x_save_requirements": False,  # no list of packages
}
AXIS = "trainer/global_step"  # as Lightning's logger has it; wandb's own count of rows starts anew with every process
SUMMARIES = {"val/accuracy": "max", "val/loss": "min"}
ROWS_A_SECOND = 100  # more than any run logs


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
        """Nothing: the run's configuration was told when it began, less what is nobody's business."""

    def save(self) -> None:
        self.attempt(super().save)

    def finalize(self, status: str) -> None:
        self.attempt(super().finalize, status)

    def send_checkpoint(self, file: str) -> None:
        """As an artifact of type ``model``."""

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model")
            artifact.add_file(file)
            self.experiment.log_artifact(artifact)

        self.attempt(send)


class EarlierRun(NamedTuple):
    """A W&B run: how it was logged to last, its id, and when it began."""

    mode: WandbMode
    id: str
    began: datetime.datetime


def earlier_run(run_dir: Path) -> EarlierRun | None:
    """The W&B run that the run in ``run_dir`` was logged to; None where it was to none, or no run was there."""
    # By wandb's own names: run-20261125_075737-kat5omc0, and offline-run-... likewise.
    found = [path.name.split("run-", 1) for path in run_dir.glob("wandb/*run-????????_??????-*")]
    if not found or not (run_dir / "config.yaml").exists():
        return None
    parts = sorted((*stamp_and_id.split("-", 1), mode) for mode, stamp_and_id in found)
    began = datetime.datetime.strptime(parts[0][0], "%Y%m%d_%H%M%S")
    _, run_id, mode = parts[-1]
    return EarlierRun("offline" if mode == "offline-" else "auto", run_id, began)


def wandb_logger(
    mode: WandbMode, run_dir: Path, earlier: EarlierRun | None = None, tests: bool = False, **about: Any
) -> SafeLogger | None:
    """A logger that writes below ``run_dir``, or None, with a warning, where wandb cannot be used at all.

    Args:
        mode: ``online``, ``offline``, or ``auto``: online where an API key is known, else offline. The environment
            variable WANDB_MODE wins over ``auto``.
        run_dir: directory of the run.
        earlier: the W&B run to go on with.
        tests: it only adds a test to that run, and only where both are online: what ``wandb sync`` adds to a run takes
            the place of its summary. Elsewhere a test has a run of its own.
        about: the run, as of ``wandb.init``: name, group, tags, job_type, config.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read, and set, when wandb is imported
    try:
        import wandb
    except ImportError:
        warnings.warn("wandb is not installed, so nothing is sent: pip install wandb", stacklevel=2)
        return None
    wanted: Any = os.environ.get("WANDB_MODE", "online") if mode == "auto" else mode
    for chosen in dict.fromkeys([wanted, "offline"]):
        try:
            if chosen != "online" or wandb.login(prompt=False, verify=False):
                if tests and (chosen != "online" or (earlier and earlier.mode == "offline")):
                    earlier = None
                same: dict[str, Any] = {"id": earlier.id} if earlier else {}
                if chosen == "online" and earlier:
                    same["resume"] = "allow"
                if not (tests and earlier):
                    same |= about | {"group": os.environ.get("WANDB_RUN_GROUP", about.get("group"))}
                run = wandb.init(dir=run_dir, mode=chosen, settings=wandb.Settings(**settings()), **same)
                if chosen != "online" and earlier:
                    # `wandb sync` joins what has one id, if its counts of rows do not overlap.
                    seconds = (datetime.datetime.now() - earlier.began).total_seconds()
                    run.log({}, step=int(ROWS_A_SECOND * max(1, seconds)))
                define_metrics(run)
                return SafeLogger(experiment=run)
            why = "no API key; after `wandb login`, `wandb sync` sends what was logged"
        except Exception as error:  # whatever it is, the run is worth more than its dashboard
            why = reason(error)
        warnings.warn(f"W&B is not {chosen}: {why}", stacklevel=2)
    return None


def settings() -> dict[str, Any]:
    """Of this package, less what the environment sets."""
    # By wandb's rule, by which the variable of x_disable_meta has two underscores.
    own = {
        name: value for name, value in SETTINGS.items() if f"WANDB_{name.removeprefix('x').upper()}" not in os.environ
    }
    return {**own, "init_timeout": INIT_TIMEOUT, "finish_timeout": FINISH_TIMEOUT}


def define_metrics(run: Any) -> None:
    """What is drawn over what, and what the summary keeps of it; of all else the last value."""
    run.define_metric(AXIS)
    run.define_metric("*", step_metric=AXIS)
    if "WANDB_SWEEP_ID" not in os.environ:  # a sweep reads its metric's last value from the summary
        for name, kept in SUMMARIES.items():
            run.define_metric(name, step_metric=AXIS, summary=kept)


def public(value: Any) -> Any:
    """A configuration for others' eyes: whatever has a slash in it, as paths and addresses have, is not told."""
    if isinstance(value, dict):
        return {name: public(one) for name, one in value.items()}
    if isinstance(value, list):
        return [public(one) for one in value]
    return "not told" if isinstance(value, str) and ("/" in value or os.sep in value) else value


def finish(logger: WandbLogger, failed: bool) -> None:
    """Sends what is left and ends the run, so that a second run in this process is not its continuation."""
    try:
        logger.experiment.finish(exit_code=int(failed))
    except Exception as error:
        warnings.warn(f"W&B could not finish the run: {reason(error)}", stacklevel=2)


NUMBERS = ("accuracy", "accuracy_without_tta", "loss", "brier", "calibration_error", "temperature", "images")
ENLARGED = 4  # times, by which 32 pixels can be looked at


def show_curves(logger: SafeLogger, file: Path) -> None:
    """The picture of a run's curves."""

    def show() -> None:
        import wandb

        logger.experiment.log({"train/curves": wandb.Image(str(file))})

    logger.attempt(show)


def show_test(logger: SafeLogger, result: dict[str, Any], images: np.ndarray | None, picture: Path) -> None:
    """The result of `tested`.

    Args:
        logger: of the W&B run.
        result: see above; its numbers go to the run's summary.
        images: of its mistakes, uint8 (N, H, W, 3); None where there are none.
        picture: what `draw_evaluation` made of it.
    """

    def show() -> None:
        import wandb

        names = [*result["per_class"]]
        cells = [
            (true, predicted, count)
            for true, row in enumerate(result["confusion"])
            for predicted, count in enumerate(row)
        ]
        accuracies = [[name, one["accuracy"]] for name, one in result["per_class"].items()]
        large: Any = [] if images is None else images.repeat(ENLARGED, 1).repeat(ENLARGED, 2)
        columns = list(result["mistakes"][0]) if result["mistakes"] else []
        mistakes = [[wandb.Image(pixels), *one.values()] for pixels, one in zip(large, result["mistakes"], strict=True)]
        run = logger.experiment
        run.summary.update({f"test/{name}": result[name] for name in NUMBERS})
        run.log(
            {
                "test/confusion": wandb.plot.confusion_matrix(
                    y_true=[true for true, _, count in cells for _ in range(count)],
                    preds=[predicted for _, predicted, count in cells for _ in range(count)],
                    class_names=names,
                    title="confusions",
                ),
                "test/classes": wandb.plot.bar(
                    wandb.Table(["class", "accuracy"], accuracies), "class", "accuracy", "accuracy of each class"
                ),
                "test/mistakes": wandb.Table(["image", *columns], mistakes),
                "test/picture": wandb.Image(str(picture)),
            }
        )

    logger.attempt(show)
