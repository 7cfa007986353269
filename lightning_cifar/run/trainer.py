"""Run: from what was asked for to a Trainer with all that a run needs in its directory.

What a run records is in `train.record`, what it goes on from in `train.resume`.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_summary import summarize

from lightning_cifar.distributed import hand_down, handed_down, is_first
from lightning_cifar.errors import InputError
from lightning_cifar.files import LOCK, lock, write_whole
from lightning_cifar.run.figure import LiveFigure
from lightning_cifar.run.guards import FiniteLoss, GateStatistics
from lightning_cifar.run.job import Configuration
from lightning_cifar.run.metrics_csv import csv_logger
from lightning_cifar.run.progress import Progress
from lightning_cifar.run.record import RunRecord, new_run_dir, recorded_recipe
from lightning_cifar.run.resume import LastCheckpoint, newest_whole
from lightning_cifar.run.settings import differences
from lightning_cifar.run.throughput import Throughput
from lightning_cifar.run.wandb import SafeLogger, earlier_run, finish, public, wandb_logger
from lightning_cifar.train.checkpoint import DurableIO


class Run(Configuration):
    """`Configuration` with a directory for every run, and a Trainer equipped for it."""

    run_dir: Path
    steps_before = 0  # of a run that goes on
    wandb: SafeLogger | None = None
    lock: FileLock | None = None

    def __init__(self, args: list[str], typed: list[str] | None = None) -> None:
        """Runs the command; ``typed`` is what the user said of it, for the record, where ``args`` says it in full."""
        self.typed = typed or args
        failed = True
        try:
            super().__init__(args)
            failed = False
        finally:
            if self.wandb is not None:
                finish(self.wandb, failed)
            if self.lock is not None:
                self.lock.release()

    def instantiate_trainer(self, **_: Any) -> Trainer:
        settings = self.config[self.subcommand]
        if settings["print_model"]:
            self.model.example_input_array = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
            print(summarize(self.model, max_depth=4))
            raise SystemExit(0)
        # Before the run directory is made: bad data leaves nothing behind.
        self.datamodule.prepare_data()
        self.datamodule.setup(self.subcommand)
        self.model.adopt(self.datamodule)
        if settings["trainer"]["precision"] == "auto":
            self.choose_precision()
        configured = self.config_init[self.subcommand]["trainer"]
        if settings.get("resume") is not None:
            return self.resume(Path(settings["resume"]), configured)
        if not is_first():
            self.run_dir = self.shared_run_dir()
            return self.equipped_trainer(configured)
        self.run_dir = self.make_run_dir()
        hand_down(run_dir=str(self.run_dir), precision=configured["precision"])
        self.lock = lock(self.run_dir)
        try:
            write_whole(self.run_dir / "config.yaml", self.resolved_config().encode())
            if configured["barebones"]:  # Lightning's word for: nothing but the loop
                return super().instantiate_trainer(default_root_dir=str(self.run_dir))
            return self.equipped_trainer(configured)
        except Exception:
            if self.wandb is not None:
                finish(self.wandb, failed=True)
                self.wandb = None
            # What was made a moment ago: nothing has run in it.
            if settings["run_dir"] is None:
                shutil.rmtree(self.run_dir)
            else:
                shutil.rmtree(self.run_dir / "wandb", ignore_errors=True)
                for name in ("config.yaml", LOCK):
                    (self.run_dir / name).unlink(missing_ok=True)
            raise

    def equipped_trainer(self, configured: dict[str, Any], lines: int = 0) -> Trainer:
        """The Trainer, with what a run needs in its directory; of a ``metrics.csv`` there, ``lines`` are kept."""
        if is_first():
            self.wandb = self.dashboard()
        plugins = configured["plugins"] or []
        return super().instantiate_trainer(
            logger=self.loggers(configured["logger"], lines),
            callbacks=self.callbacks(configured),
            plugins=[*(plugins if isinstance(plugins, list) else [plugins]), DurableIO()],
            default_root_dir=configured["default_root_dir"] or str(self.run_dir),
        )

    def dashboard(self) -> SafeLogger | None:
        """The W&B run to log to, where one is asked for: that of before, if this goes on with it or tests its model."""
        settings, tests = self.config[self.subcommand], self.subcommand == "test"
        logged = Path(settings["ckpt_path"]).parent.parent if tests else self.run_dir
        earlier = earlier_run(logged)
        mode = settings["wandb"] or (earlier.mode if earlier and not tests else None)
        if mode is None:
            if settings["wandb_checkpoints"]:
                raise InputError("--wandb_checkpoints sends them to W&B: it goes with --wandb")
            return None
        config = yaml.safe_load(self.resolved_config())
        recipe = recorded_recipe(logged) if tests else config["recipe"]
        return wandb_logger(
            mode,
            self.run_dir,
            earlier,
            tests,
            name=f"{self.group}/{self.run_dir.name}",
            group=recipe or self.group,
            tags=[recipe] if recipe else None,
            job_type=self.subcommand,
            config=public({**config, "recipe": recipe}),
        )

    def resume(self, run_dir: Path, configured: dict[str, Any]) -> Trainer:
        """Goes on in ``run_dir``, by what it was started with."""
        file, config, lines = run_dir / "config.yaml", self.resolved_config(), 0
        if is_first():
            self.lock = lock(run_dir)
            hand_down(run_dir=str(run_dir), precision=configured["precision"])
        for change in changes(yaml.safe_load(config), yaml.safe_load(file.read_text())):
            print(f"changed: {change}")
        self.run_dir = run_dir
        if found := newest_whole(run_dir / "checkpoints"):
            self.resumed, checkpoint = found
            self.steps_before = checkpoint["global_step"]
            lines = checkpoint["callbacks"]["LastCheckpoint"]["lines"]
            print(f"going on from {self.resumed}, step {self.steps_before:,}")
        else:
            print("no checkpoint was written yet: training starts as it did before")
        trainer = self.equipped_trainer(configured, lines)
        if is_first():  # now that it is known to work
            write_whole(file, config.encode())
        return trainer

    def shared_run_dir(self) -> Path:
        """That of the first process of this run."""
        named = handed_down().get("run_dir") or self.config[self.subcommand]["run_dir"]
        if named is None:
            raise InputError("several processes were started at once: name one directory for all by --run_dir")
        return Path(named)

    def make_run_dir(self) -> Path:
        return new_run_dir(self.config[self.subcommand]["run_dir"], self.group)

    def loggers(self, configured: Any, lines: int) -> list[Logger]:
        """CSV always, first, so that checkpoints lie beside it; then W&B and what ``--trainer.logger`` names."""
        loggers: list[Logger] = [csv_logger(self.run_dir, lines)]
        if self.wandb is not None and self.subcommand != "test":  # which has no steps to draw over
            loggers.append(self.wandb)
        if configured and configured is not True:
            loggers += configured if isinstance(configured, list) else [configured]
        return loggers

    def callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        """The configured callbacks, and of the usual ones those that were not configured."""
        own = trainer["callbacks"] or []
        own = own if isinstance(own, list) else [own]
        command = ["python", "-m", "lightning_cifar", *self.typed]
        usual: list[Callback] = [RunRecord(str(self.run_dir), command, self.config[self.subcommand]["recipe"])]
        if self.subcommand == "fit":
            usual += [Throughput(), GateStatistics(), FiniteLoss(), LiveFigure()]
            if trainer["enable_checkpointing"] is not False:
                # The test set selects nothing: where it is what is watched, "best" is by the training loss.
                validated = self.datamodule.hparams["held_out"] == "val" and trainer["limit_val_batches"] != 0
                by: dict[str, Any] = (
                    {"monitor": "val/accuracy", "mode": "max"} if validated else {"monitor": "train/loss"}
                )
                usual.append(ModelCheckpoint(filename="best", enable_version_counter=False, **by))
                usual.append(LastCheckpoint())
        if trainer["enable_progress_bar"] is not False and not any(isinstance(one, ProgressBar) for one in own):
            usual.append(Progress())
        return [*(one for one in usual if not any(isinstance(other, type(one)) for other in own)), *own]


# What may change when a run goes on: where things are, and whatever the Trainer does.
FREE = {"data.root", "data.num_workers", "data.in_memory", "data.eval_batch_size"}


def changes(settings: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """What differs from ``stored``, a line each.

    Raises:
        InputError: it would make another run of it.
    """
    found = []
    for name, value, before in differences(settings, stored):
        if not name.startswith("trainer.") and name not in FREE:
            raise InputError(f"--{name} {value}: the run to go on with was started with {before}")
        found.append(f"--{name} {value}, before {before}")
    if settings["seed_everything"] != stored["seed_everything"]:
        raise InputError(f"--seed_everything: the run to go on with has the seed {stored['seed_everything']}")
    return found
