"""Logging to Weights & Biases: its failures never end a run, and it uploads no paths, commands or host names."""

import datetime
import os
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning.pytorch.loggers import WandbLogger

from lightning_cifar.errors import reason
from lightning_cifar.run.records.attempt import attempt, attempt_calls

WandbMode = Literal["auto", "online", "offline"]
SERVICE = "W&B"  # in warnings
# Seconds. Without a network, wandb's defaults delay the start of a run by 90 s and its end forever.
INIT_TIMEOUT, FINISH_TIMEOUT = 30, 60
# Defaults of wandb's settings; the environment overrides them (WANDB_PROJECT, WANDB_CONSOLE, WANDB__DISABLE_META).
SETTINGS = {
    "project": "lightning-cifar",
    "silent": True,
    "console": "off",  # terminal output names directories
    "disable_git": True,  # no commit, no diff
    "host": "",
    "save_code": False,
    "x_disable_meta": True,  # no command line, paths, user or hardware
    "x_save_requirements": False,  # no list of installed packages
}
VARIABLES = {"name": "WANDB_NAME", "tags": "WANDB_TAGS", "group": "WANDB_RUN_GROUP", "job_type": "WANDB_JOB_TYPE"}
AXIS = "trainer/global_step"  # as in Lightning's logger; wandb's row count restarts in every process
SUMMARIES = {"val/accuracy": "max", "val/loss": "min"}
ROWS_PER_SECOND = 100  # more than any run logs


class EarlierRun(NamedTuple):
    """A W&B run: the mode it was last logged in, its id, and its start."""

    mode: WandbMode
    id: str
    began: datetime.datetime


def find_earlier_run(run_dir: Path) -> EarlierRun | None:
    """Return the W&B run that the run in ``run_dir`` was logged to; None if there is no such run."""
    # wandb names its directories run-20261125_075737-kat5omc0 or offline-run-20261125_075737-kat5omc0.
    found = [path.name.split("run-", 1) for path in run_dir.glob("wandb/*run-????????_??????-*")]
    if not found or not (run_dir / "config.yaml").exists():
        return None
    parts = sorted((*stamp_and_id.split("-", 1), mode) for mode, stamp_and_id in found)
    began = datetime.datetime.strptime(parts[0][0], "%Y%m%d_%H%M%S")
    _, run_id, mode = parts[-1]
    return EarlierRun("offline" if mode == "offline-" else "auto", run_id, began)


def start_wandb(
    mode: WandbMode, run_dir: Path, earlier: EarlierRun | None = None, tests: bool = False, **about: Any
) -> WandbLogger | None:
    """Start or resume a W&B run and return its logger; warn and return None if wandb cannot be used.

    Args:
        mode: ``online``, ``offline``, or ``auto``: online if there is an API key, else offline. The environment
            variable WANDB_MODE overrides ``auto``.
        run_dir: directory of the run; wandb writes to its subdirectory ``wandb``.
        earlier: the W&B run to resume.
        tests: add a test to the earlier run. If one of the two is offline, the test gets a new W&B run, because
            ``wandb sync`` would replace the summary of the earlier run.
        about: arguments of ``wandb.init``: name, group, tags, job_type, config.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb reads it when imported
    try:
        import wandb
    except ImportError:
        warnings.warn("wandb is not installed, nothing is logged to W&B: pip install wandb", stacklevel=2)
        return None
    if "WANDB_DIR" in os.environ:
        warnings.warn(f"WANDB_DIR has no effect: W&B's files go to {run_dir / 'wandb'}, for --resume", stacklevel=2)
    wanted: Any = os.environ.get("WANDB_MODE") or "online" if mode == "auto" else mode
    for chosen in dict.fromkeys([wanted, "offline"]):
        try:
            if chosen != "online" or wandb.login(prompt=False, verify=False):
                return make_logger(chosen, run_dir, earlier, tests, about)
            why = "no API key; run `wandb login` and then `wandb sync` to upload this run"
        except Exception as error:  # training continues without W&B
            why = " ".join(str(error).split())[:200] or reason(error)  # that of a wrong setting has several lines
        warnings.warn(f"W&B is not {chosen}: {why}", stacklevel=2)
    return None


def make_logger(
    mode: Any, run_dir: Path, earlier: EarlierRun | None, tests: bool, about: dict[str, Any]
) -> WandbLogger:
    """Start or resume a W&B run in a mode that is possible; the arguments are those of `start_wandb`."""
    import wandb

    if tests and (mode != "online" or (earlier and earlier.mode == "offline")):
        earlier = None
    same: dict[str, Any] = {"id": earlier.id} if earlier else {}
    if mode == "online" and earlier:
        same["resume"] = "allow"
    if not (tests and earlier):
        chosen = {name: os.environ[variable] for name, variable in VARIABLES.items() if os.environ.get(variable)}
        tags = {"tags": chosen["tags"].split(",")} if "tags" in chosen else {}
        same |= about | chosen | tags
    run = wandb.init(dir=run_dir, mode=mode, settings=wandb.Settings(**make_settings()), **same)
    if mode != "online" and earlier:
        # `wandb sync` merges runs of the same id if their row counts do not overlap.
        seconds = (datetime.datetime.now() - earlier.began).total_seconds()
        run.log({}, step=int(ROWS_PER_SECOND * max(1, seconds)))
    define_metrics(run)
    logger = WandbLogger(experiment=run)
    attempt_calls(logger, SERVICE)
    # The configuration is logged already, without paths.
    logger.log_hyperparams = lambda *_, **__: None  # type: ignore[method-assign]
    return logger


def make_settings() -> dict[str, Any]:
    """Return wandb's settings, without those that the environment sets."""
    # wandb drops the "x" of a setting's name: x_disable_meta is WANDB__DISABLE_META.
    defaults = {
        name: value for name, value in SETTINGS.items() if f"WANDB_{name.removeprefix('x').upper()}" not in os.environ
    }
    return {**defaults, "init_timeout": INIT_TIMEOUT, "finish_timeout": FINISH_TIMEOUT}


def define_metrics(run: Any) -> None:
    """Plot every metric over training steps; keep the best accuracy and loss in the summary, else the last value."""
    run.define_metric(AXIS)
    run.define_metric("*", step_metric=AXIS)
    if "WANDB_SWEEP_ID" not in os.environ:  # a sweep reads its metric's last value from the summary
        for name, best in SUMMARIES.items():
            run.define_metric(name, step_metric=AXIS, summary=best)


def hide_paths(value: Any) -> Any:
    """Return a configuration with every string that contains a slash, as in paths and URLs, replaced by ``hidden``."""
    if isinstance(value, dict):
        return {name: hide_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [hide_paths(item) for item in value]
    return "hidden" if isinstance(value, str) and ("/" in value or os.sep in value) else value


def finish_wandb(logger: WandbLogger, failed: bool) -> None:
    """Upload the remaining data and end the W&B run, so that the next run of this process gets a new one."""
    try:
        logger.experiment.finish(exit_code=int(failed))
    except Exception as error:
        warnings.warn(f"W&B could not finish the run: {reason(error)}", stacklevel=2)


NUMBERS = (
    *("accuracy", "balanced_accuracy", "accuracy_without_tta", "loss", "brier"),
    *("calibration_error", "temperature", "images"),
)
SHOWN = 128  # pixels; 32x32 are too small to see


def log_curves(logger: WandbLogger, file: Path) -> None:
    """Log the figure ``curves.png`` of a run."""

    def log() -> None:
        import wandb

        logger.experiment.log({"train/curves": wandb.Image(str(file))})

    attempt(logger, SERVICE, log)


def log_checkpoint(logger: WandbLogger, file: str) -> None:
    """Upload a checkpoint as an artifact of type ``model``."""

    def log() -> None:
        import wandb

        artifact = wandb.Artifact(f"model-{logger.experiment.id}", type="model")
        artifact.add_file(file)
        logger.experiment.log_artifact(artifact)

    attempt(logger, SERVICE, log)


def log_test(logger: WandbLogger, result: dict[str, Any], images: np.ndarray | None, plot: Path) -> None:
    """Log the result of a test: its numbers to the summary, its confusions, classes and mistakes as tables.

    ``images`` are those of the mistakes, uint8 (N, H, W, 3); None if there are none.
    """

    def log() -> None:
        import wandb

        names = [*result["per_class"]]
        cells = [
            (true, predicted, count)
            for true, row in enumerate(result["confusion"] or [])
            for predicted, count in enumerate(row)
        ]
        recalls = [[name, scores["recall"]] for name, scores in result["per_class"].items()]
        scale = 1 if images is None else max(1, SHOWN // images.shape[1])
        large: Any = [] if images is None else images.repeat(scale, 1).repeat(scale, 2)
        rows = [{name: value for name, value in row.items() if name != "file"} for row in result["mistakes"]]
        columns = [*rows[0]] if rows else []
        mistakes = [[wandb.Image(pixels), *row.values()] for pixels, row in zip(large, rows, strict=True)]
        run = logger.experiment
        run.summary.update({f"test/{name}": result[name] for name in NUMBERS})
        logged: dict[str, Any] = {
            "test/classes": wandb.plot.bar(
                wandb.Table(["class", "recall"], recalls), "class", "recall", "recall of each class"
            ),
            "test/mistakes": wandb.Table(["image", *columns], mistakes),
            "test/figure": wandb.Image(str(plot)),
        }
        if cells:  # not for very many classes
            logged["test/confusion"] = wandb.plot.confusion_matrix(
                y_true=[true for true, _, count in cells for _ in range(count)],
                preds=[predicted for _, predicted, count in cells for _ in range(count)],
                class_names=names,
                title="confusions",
            )
        run.log(logged)

    attempt(logger, SERVICE, log)
