"""``python -m lightning_cifar fit | validate | test | predict``: one LightningCLI, recipes by name, short errors.

What arguments mean before LightningCLI reads them is in `arguments`; what a run leaves, in `train.record`.
"""

import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_summary import summarize

from lightning_cifar.arguments import RECIPES, checkpoint_config, layered
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError
from lightning_cifar.results.report import evaluation, format_table, write_json, write_predictions
from lightning_cifar.train.classifier import ImageClassifier
from lightning_cifar.train.figure import LiveFigure
from lightning_cifar.train.progress import Progress, Throughput
from lightning_cifar.train.record import RunRecord, new_run_dir
from lightning_cifar.train.wandb import WandbMode, wandb_logger

# Said by the libraries at every start, true and of no use here. Everything else is shown.
IRRELEVANT = (
    "LightningCLI's args parameter is intended",  # main(args) is how this package's own tests call it
    "Experiment logs directory .* exists and is not empty",  # the run directory is new; config.yaml is already in it
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning 2.6 and torch 2.14
    "Be aware that when using `ckpt_path`",  # ModelCheckpoint has no part in a test, and `fit` always has one
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, or 2 after one line on standard error for bad input."""
    args = list(sys.argv[1:] if args is None else args)
    if args == ["--version"]:
        print(f"lightning-cifar {version('lightning-cifar')}")
        return 0
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # they are about how Lightning 2.6 calls it
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        for message in IRRELEVANT:
            warnings.filterwarnings("ignore", message)
        try:
            CommandLine(layered(args))
        except (InputError, MisconfigurationException) as error:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            return 2
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0
    return 0


class Parser(LightningArgumentParser):
    """Errors in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        lines = [re.sub(r"^[\s-]+", "", line) for line in str(message).splitlines()]
        raise InputError("; ".join(line for line in lines if line)) from ex


class CommandLine(LightningCLI):
    """LightningCLI over `ImageClassifier` and `CIFAR10DataModule`, with a directory for every run."""

    model: ImageClassifier
    datamodule: CIFAR10DataModule

    def __init__(self, args: list[str]) -> None:
        self.wandb: Logger | None = None
        try:
            super().__init__(
                ImageClassifier,
                CIFAR10DataModule,
                save_config_callback=None,  # instantiate_trainer writes it, for every subcommand
                trainer_defaults={"enable_model_summary": False},  # --print_model shows it
                seed_everything_default=0,
                parser_class=Parser,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # it would store more than plain values in checkpoints
                args=args,
            )
        finally:
            if self.wandb is not None:
                self.wandb.experiment.finish()

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(**kwargs, allow_abbrev=False)  # --model.learning_rat is a typo, not an option

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--recipe", choices=[*RECIPES], help="a recipe by name; `report` where none is named")
        parser.add_argument("--run_dir", help="directory of this run, new or empty; default runs/<recipe>/<time>")
        parser.add_argument(
            "--wandb",
            nargs="?",
            const="auto",
            choices=get_args(WandbMode),
            help="log to Weights & Biases: online if logged in, else offline, or as named",
        )
        parser.add_argument("--print_model", action="store_true", help="print the network's table and stop")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, less the arguments that `test` and `predict` below set themselves."""
        skipped = LightningCLI.subcommands()
        skipped["test"] |= {"verbose"}
        skipped["predict"] |= {"return_predictions"}
        return skipped

    def _parse_ckpt_path(self) -> None:
        """Lightning's lets the checkpoint win over flags in silence; here `layered` has put it before them.

        A resumed optimiser keeps the checkpoint's values, so other ones are refused.
        """
        settings = self.config[self.config.subcommand]
        if self.config.subcommand != "fit" or settings["ckpt_path"] is None:
            return
        for name, stored in checkpoint_config(Path(settings["ckpt_path"]))["model"].items():
            asked = settings["model"].get(name, stored)
            if asked != stored:
                raise InputError(f"--model.{name} {asked}: the checkpoint to resume from was trained with {stored}")

    def instantiate_trainer(self, **_: Any) -> Trainer:
        settings = self.config[self.subcommand]
        if settings["print_model"]:
            self.model.example_input_array = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
            print(summarize(self.model, max_depth=4))
            raise SystemExit(0)
        # Before the run directory is made: bad data leaves nothing behind.
        self.datamodule.prepare_data()
        self.datamodule.setup(self.subcommand)
        self.recipe = settings["recipe"] or (Path(str(settings["config"][-1])).stem if settings["config"] else "custom")
        self.run_dir = new_run_dir(
            settings["run_dir"], self.recipe if self.subcommand == "fit" else str(self.subcommand)
        )
        configured = self.config_init[self.subcommand]["trainer"]
        try:
            self.write_config()
            return super().instantiate_trainer(
                logger=self.loggers(configured["logger"], settings["wandb"]),
                callbacks=self.callbacks(configured["callbacks"], configured["enable_progress_bar"] is not False),
                default_root_dir=configured["default_root_dir"] or str(self.run_dir),
            )
        except Exception:
            shutil.rmtree(self.run_dir)  # made a moment ago: nothing has run in it
            raise

    def write_config(self) -> None:
        """Every resolved value; ``fit --config`` of this file repeats the run."""
        config = self.config[self.subcommand].clone()
        for key in ("config", "run_dir", "print_model", "wandb"):
            config.pop(key)
        text = self._parser(self.subcommand).dump(config, skip_none=False)
        (self.run_dir / "config.yaml").write_text(text)

    def loggers(self, configured: Any, wandb: WandbMode | None) -> list[Logger]:
        """CSV always, first, so that checkpoints lie beside it; then W&B and what ``--trainer.logger`` names."""
        loggers: list[Logger] = [CSVLogger(self.run_dir, name="", version="")]
        if wandb is not None:
            self.wandb = wandb_logger(wandb, self.run_dir, f"{self.recipe}/{self.run_dir.name}")
            loggers += [self.wandb] if self.wandb else []
        if configured and configured is not True:
            loggers += configured if isinstance(configured, list) else [configured]
        return loggers

    def callbacks(self, configured: Any, progress: bool) -> list[Callback]:
        """The configured callbacks, and of the usual ones those that were not configured."""
        callbacks = [] if configured is None else configured if isinstance(configured, list) else [configured]
        # The test set selects nothing: where it is what is watched, "best" is by the training loss.
        by = ("val/accuracy", "max") if self.datamodule.hparams["held_out"] == "val" else ("train/loss", "min")
        usual: list[Callback] = [RunRecord(str(self.run_dir), self.recipe)]
        if self.subcommand == "fit":
            best = ModelCheckpoint(
                filename="best", monitor=by[0], mode=by[1], save_last=True, enable_version_counter=False
            )
            usual += [Throughput(), LiveFigure(), best]
        if progress and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            usual.append(Progress())
        return [*(one for one in usual if not any(isinstance(own, type(one)) for own in callbacks)), *callbacks]

    def before_fit(self) -> None:
        print(f"run directory: {self.run_dir}", flush=True)

    def after_fit(self) -> None:
        """Says where things are."""
        for what, file in (
            ("curves", "curves.png"),
            ("numbers", "metrics.csv"),
            ("checkpoint", "checkpoints/best.ckpt"),
        ):
            if (self.run_dir / file).exists():
                print(f"{what}: {self.run_dir / file}")
        best = self.run_dir / "checkpoints/best.ckpt"
        if best.exists():
            print(f"test it: python -m lightning_cifar test --ckpt_path {best}")

    def test(self, **kwargs: Any) -> None:
        """Tests, prints one table and writes it as ``test.json``."""
        self.trainer.test(**kwargs, verbose=False)
        result = evaluation(
            float(self.trainer.callback_metrics["test/loss"]),
            self.model.test_confusion.compute(),
            self.datamodule.dataset.class_names,
        )
        print(format_table(result))
        file = self.run_dir / "test.json"
        write_json(file, {"checkpoint": self.config["test"]["ckpt_path"], **result})
        print(f"table: {file}")

    def predict(self, **kwargs: Any) -> None:
        """Predicts the test images and writes ``predictions.csv``."""
        batches: Any = self.trainer.predict(**kwargs)
        file = self.run_dir / "predictions.csv"
        test = self.datamodule.test
        write_predictions(file, torch.cat(batches), test.labels, self.datamodule.dataset.class_names)
        print(f"predictions: {file}")
