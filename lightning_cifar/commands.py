"""CommandLine: LightningCLI over `ImageClassifier` and `CIFAR10DataModule`, with a directory for every run.

What arguments mean before LightningCLI reads them is in `arguments`; what a run records, in `train.record`.
"""

import json
import logging
import re
import shutil
import signal
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import torch
import yaml
from lightning import Trainer
from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.model_summary import summarize

from lightning_cifar.arguments import RECIPES, WEIGHTS, checkpoint_config, differences
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError
from lightning_cifar.results.corruptions import under_corruptions
from lightning_cifar.results.evaluation import tested
from lightning_cifar.results.picture import draw_evaluation
from lightning_cifar.results.report import format_table, write_predictions
from lightning_cifar.results.weights import described, read_weights
from lightning_cifar.train.classifier import ImageClassifier
from lightning_cifar.train.durable import DurableIO, write_whole
from lightning_cifar.train.figure import LiveFigure
from lightning_cifar.train.memory import keep_freed_memory
from lightning_cifar.train.numbers import csv_logger
from lightning_cifar.train.precision import fastest_precision
from lightning_cifar.train.progress import Progress, Throughput
from lightning_cifar.train.record import RunRecord, new_run_dir, write_json
from lightning_cifar.train.resume import LastCheckpoint, newest_whole
from lightning_cifar.train.wandb import WandbMode, finish, wandb_logger


class Parser(LightningArgumentParser):
    """Errors in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        lines = [re.sub(r"^[\s-]+", "", line) for line in str(message).splitlines()]
        raise InputError("; ".join(line for line in lines if line)) from ex


class AutoTrainer(Trainer):
    """Lightning's Trainer as the command line sees it, with ``--trainer.precision auto``.

    Args:
        precision: Lightning's, or ``auto``: ``bf16-mixed`` or ``32-true``, whichever proves faster on this machine.
    """

    def __init__(self, precision: _PRECISION_INPUT | Literal["auto"] | None = None, **kwargs: Any) -> None:
        assert precision != "auto"
        super().__init__(precision=precision, **kwargs)


class CommandLine(LightningCLI):
    """LightningCLI over `ImageClassifier` and `CIFAR10DataModule`, with a directory for every run."""

    model: ImageClassifier
    datamodule: CIFAR10DataModule

    def __init__(self, args: list[str]) -> None:
        for library in ("lightning.pytorch", "lightning.fabric"):  # importing them has set it to INFO
            logging.getLogger(library).setLevel(logging.WARNING)
        self.args = args
        self.wandb: WandbLogger | None = None
        self.resumed: Path | None = None
        try:
            super().__init__(
                ImageClassifier,
                CIFAR10DataModule,
                trainer_class=AutoTrainer,
                save_config_callback=None,  # instantiate_trainer writes it, for every subcommand
                trainer_defaults={"enable_model_summary": False},  # --print_model shows it
                seed_everything_default=0,
                parser_kwargs={"prog": "python -m lightning_cifar"},
                parser_class=Parser,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # it would store more than plain values in checkpoints
                args=args,
            )
        finally:
            if self.wandb is not None:
                finish(self.wandb)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(**kwargs, allow_abbrev=False)  # --model.learning_rat is a typo, not an option

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--recipe", choices=[*RECIPES], help="a recipe by name; `report` where none is named")
        parser.add_argument("--resume", metavar="RUN_DIR", help="fit: go on with a run that was stopped")
        parser.add_argument("--run_dir", help="directory of this run, new or empty; default runs/<recipe>/<time>")
        parser.add_argument(
            "--wandb",
            nargs="?",
            const="auto",
            choices=get_args(WandbMode),
            help="log to Weights & Biases: online if logged in, else offline, or as named",
        )
        parser.add_argument("--print_model", action="store_true", help="print the network's table and stop")
        parser.add_argument("--corruptions", action="store_true", help="test: under common corruptions too")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, less the arguments that are set below."""
        skipped = {name: {*skip, "weights_only"} for name, skip in LightningCLI.subcommands().items()}
        skipped["test"] |= {"verbose"}
        skipped["predict"] |= {"return_predictions"}
        return skipped

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Checkpoints are loaded without running code that they may hold."""
        arguments = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if str(arguments["ckpt_path"]).endswith(WEIGHTS):
            _, known, tensors = read_weights(Path(arguments["ckpt_path"]))
            self.model.load_state_dict(tensors)
            print(f"weights: {described(known)}")
            arguments["ckpt_path"] = None  # for Lightning, which knows its own checkpoints alone
        if self.resumed is not None:
            arguments["ckpt_path"] = self.resumed
        return arguments

    def _parse_ckpt_path(self) -> None:
        """Lightning's lets the checkpoint win over flags in silence; here `layered` has put it before them.

        A resumed optimiser keeps the checkpoint's values, so other ones are refused.
        """
        settings = self.config[self.config.subcommand]
        if self.config.subcommand != "fit" or settings["ckpt_path"] is None:
            return
        if settings["ckpt_path"].endswith(WEIGHTS):
            raise InputError(
                f"--ckpt_path {settings['ckpt_path']}: weights alone; fit goes on from its own checkpoints"
            )
        for name, stored in checkpoint_config(Path(settings["ckpt_path"]))["model"].items():
            asked = json.loads(json.dumps(settings["model"].get(name, stored)))
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
        self.model.adopt(self.datamodule)
        if settings["trainer"]["precision"] == "auto":
            self.choose_precision()
        configured = self.config_init[self.subcommand]["trainer"]
        if settings.get("resume") is not None:
            return self.resume(Path(settings["resume"]), configured)
        self.run_dir = self.make_run_dir()
        try:
            write_whole(self.run_dir / "config.yaml", self.resolved_config().encode())
            if configured["barebones"]:  # Lightning's word for: nothing but the loop
                return super().instantiate_trainer(default_root_dir=str(self.run_dir))
            return self.equipped_trainer(configured)
        except Exception:
            if settings["run_dir"] is None:
                shutil.rmtree(self.run_dir)  # made a moment ago: nothing has run in it
            else:
                (self.run_dir / "config.yaml").unlink(missing_ok=True)
            raise

    def equipped_trainer(self, configured: dict[str, Any], lines: int = 0) -> Trainer:
        """The Trainer, with what a run needs in its directory; of a ``metrics.csv`` there, ``lines`` are kept."""
        wandb = self.config[self.subcommand]["wandb"]
        if wandb is not None:
            self.wandb = wandb_logger(wandb, self.run_dir, f"{self.group}/{self.run_dir.name}")
        plugins = configured["plugins"] or []
        return super().instantiate_trainer(
            logger=self.loggers(configured["logger"], lines),
            callbacks=self.callbacks(configured),
            plugins=[*(plugins if isinstance(plugins, list) else [plugins]), DurableIO()],
            default_root_dir=configured["default_root_dir"] or str(self.run_dir),
        )

    def resume(self, run_dir: Path, configured: dict[str, Any]) -> Trainer:
        """Goes on in ``run_dir``, by what it was started with."""
        file, config = run_dir / "config.yaml", self.resolved_config()
        for change in changes(yaml.safe_load(config), yaml.safe_load(file.read_text())):
            print(f"changed: {change}")
        self.run_dir = run_dir
        self.resumed, checkpoint = newest_whole(run_dir / "checkpoints")
        print(f"going on from {self.resumed}, step {checkpoint['global_step']:,}")
        write_whole(file, config.encode())
        return self.equipped_trainer(configured, checkpoint["callbacks"]["LastCheckpoint"]["lines"])

    @property
    def group(self) -> str:
        """Of runs: the recipe, or what is done with a checkpoint."""
        settings = self.config[self.subcommand]
        files = [str(file) for file in settings["config"] or [] if file]
        recipe: str = settings["recipe"] or (Path(files[-1]).stem if files else "custom")
        return recipe if self.subcommand == "fit" else str(self.subcommand)

    def make_run_dir(self) -> Path:
        return new_run_dir(self.config[self.subcommand]["run_dir"], self.group)

    def choose_precision(self) -> None:
        """Puts the faster precision in the place of ``auto``."""
        trainer = self.config[self.subcommand]["trainer"]
        gpu = trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        images = self.datamodule.test.sample(256).images.to("cuda" if gpu else "cpu")
        precision = fastest_precision(self.model.network, images / 255)
        print(f"precision: {precision}, the faster one here", flush=True)
        self.set_precision(precision)

    def set_precision(self, precision: str) -> None:
        """For the Trainer and for config.yaml."""
        for config in (self.config, self.config_init):
            config[self.subcommand]["trainer"]["precision"] = precision

    def resolved_config(self) -> str:
        """Every value, as YAML; ``fit --config`` of it repeats the run."""
        config = self.config[self.subcommand].clone()
        for key in ("config", "run_dir", "resume", "print_model", "wandb", "corruptions"):
            config.pop(key)
        for key in ("class_names", "mean", "std"):
            config["model"][key] = self.model.hparams[key]
        text: str = self._parser(self.subcommand).dump(config, skip_none=False)
        return text

    def loggers(self, configured: Any, lines: int) -> list[Logger]:
        """CSV always, first, so that checkpoints lie beside it; then W&B and what ``--trainer.logger`` names."""
        loggers: list[Logger] = [csv_logger(self.run_dir, lines)]
        if self.wandb is not None:
            loggers.append(self.wandb)
        if configured and configured is not True:
            loggers += configured if isinstance(configured, list) else [configured]
        return loggers

    def callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        """The configured callbacks, and of the usual ones those that were not configured."""
        own = trainer["callbacks"] or []
        own = own if isinstance(own, list) else [own]
        command = ["python", "-m", "lightning_cifar", *self.args]
        usual: list[Callback] = [RunRecord(str(self.run_dir), command, self.config[self.subcommand]["recipe"])]
        if self.subcommand == "fit":
            usual += [Throughput(), LiveFigure()]
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

    def fit(self, **kwargs: Any) -> None:
        """Trains, and says where things are, after Ctrl-C too."""
        print(f"run directory: {self.run_dir}", flush=True)
        try:
            self.train(**kwargs)
        finally:
            self.say_where()

    def train(self, **kwargs: Any) -> None:
        keep_freed_memory()
        try:
            self.trainer.fit(**kwargs)
        except SystemExit as stop:  # how Lightning ends after a signal
            signals = (one.stop_signal for one in self.trainer.checkpoint_callbacks if isinstance(one, LastCheckpoint))
            raise SystemExit(128 + (next(signals, None) or signal.SIGINT)) from stop

    def say_where(self) -> None:
        for what, name in (("curves", "curves.png"), ("numbers", "metrics.csv")):
            if (self.run_dir / name).exists():
                print(f"{what}: {self.run_dir / name}")
        best, last = self.saved("best"), self.saved("last")
        # What the training loss liked best is no better than the last.
        if checkpoint := (best if self.datamodule.hparams["held_out"] == "val" else last) or best or last:
            print(f"checkpoint: {checkpoint}")
            print(f"test it: python -m lightning_cifar test --ckpt_path {checkpoint}")

    def saved(self, which: str) -> str:
        """Path of the ``best`` or the ``last`` checkpoint; empty where there is none."""
        paths = (getattr(one, f"{which}_model_path", "") for one in self.trainer.checkpoint_callbacks)
        return next(filter(None, paths), "")

    def test(self, **kwargs: Any) -> None:
        """Tests, prints one table and writes it as ``test.json``."""
        self.trainer.test(**kwargs, verbose=False)
        if "test/loss" not in self.trainer.callback_metrics:
            raise InputError("no image was tested: --trainer.limit_test_batches must be above 0")
        quiet = self.quiet_trainer(self.config["test"]["trainer"]["precision"])
        result = tested(self.model, self.datamodule, quiet)
        print(format_table(result), flush=True)
        if self.config["test"]["corruptions"]:
            print("accuracy without TTA under corruptions of severity 1 to 5:", flush=True)
            result["corruptions"] = under_corruptions(self.model, self.datamodule, quiet)
        file, picture = self.run_dir / "test.json", self.run_dir / "test.png"
        write_json(file, {"checkpoint": self.config["test"]["ckpt_path"], **result})
        draw_evaluation(picture, result)
        print(f"table: {file}\npicture: {picture}")

    def quiet_trainer(self, precision: _PRECISION_INPUT | None = None) -> Trainer:
        """One that evaluates, in float32 where nothing else is said, and leaves no trace."""
        return Trainer(
            accelerator=self.config[self.subcommand]["trainer"]["accelerator"],
            devices=1,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )

    def predict(self, **kwargs: Any) -> None:
        """Predicts the test images and writes ``predictions.csv``."""
        batches: Any = self.trainer.predict(**kwargs)
        if not batches:
            raise InputError("no image was predicted: --trainer.limit_predict_batches must be above 0")
        probabilities = torch.cat(batches)
        labels = self.datamodule.test.labels[: len(probabilities)]
        file = self.run_dir / "predictions.csv"
        write_predictions(file, probabilities, labels, self.datamodule.dataset.class_names)
        print(f"predictions: {file}")


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
