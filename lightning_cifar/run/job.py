"""Configuration: LightningCLI over `ImageClassifier` and `CIFAR10DataModule`: what was asked for.

What arguments mean before LightningCLI reads them is in `arguments`.
"""

import json
import logging
import re
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import torch
from jsonargparse import set_parsing_settings
from lightning import Trainer
from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.distributed import handed_down, is_first
from lightning_cifar.errors import InputError
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.options import FLAGS, RECIPES, WEIGHTS, option
from lightning_cifar.run.resume import written
from lightning_cifar.run.wandb import WandbMode
from lightning_cifar.train.classifier import ImageClassifier
from lightning_cifar.train.hardware import find_fastest_precision
from lightning_cifar.train.weights import checkpoint_config, describe_weights, read_weights

# Of this command alone, and not of what it computes.
TYPED_ALONE = (
    "config",
    "run_dir",
    "resume",
    "print_model",
    "wandb",
    "wandb_checkpoints",
    "corruptions",
    "trust_config",
)
TRUSTED = ("lightning", "pytorch_lightning", "lightning_cifar")  # packages that configurations may import from


class Parser(LightningArgumentParser):
    """Errors in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        lines = [re.sub(r"^[\s-]+", "", line) for line in str(message).splitlines()]
        text = "; ".join(line for line in lines if line)
        if denied := re.search(r"Importing '(([^'.]+)[^']*)' is not allowed", text):
            text = (
                f"{denied[1]} is not imported: configurations may name what is in lightning and lightning_cifar; "
                f"if you trust this one, --trust_config {denied[2]} lets it import from there too"
            )
        raise InputError(text) from ex


class AutoTrainer(Trainer):
    """Lightning's Trainer as the command line sees it, with ``--trainer.precision auto``.

    Args:
        precision: Lightning's, or ``auto``: ``bf16-mixed`` or ``32-true``, whichever proves faster on this machine.
        limit_train_batches: a number of batches or, with a point, a share of them, as are the others. Lightning's own
            annotation says so too, but typing's cache may turn it around, and 1 is then read as 1.0, all of them.
    """

    def __init__(
        self,
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        assert precision != "auto"
        super().__init__(
            precision=precision,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )


class Configuration(LightningCLI):
    """LightningCLI over `ImageClassifier` and `CIFAR10DataModule`."""

    model: ImageClassifier
    datamodule: CIFAR10DataModule
    resumed: Path | None = None  # the checkpoint that a stopped run goes on from

    def __init__(self, args: list[str]) -> None:
        for library in ("lightning.pytorch", "lightning.fabric"):  # importing them has set it to INFO
            logging.getLogger(library).setLevel(logging.WARNING)
        self.args = args
        restrict_imports(option(args, "--trust_config"))
        super().__init__(
            ImageClassifier,
            CIFAR10DataModule,
            trainer_class=AutoTrainer,
            save_config_callback=None,  # `Run` writes it, for every subcommand
            # --print_model shows the summary. One device where no more are asked for, and samplers are our own.
            trainer_defaults={"enable_model_summary": False, "devices": 1, "use_distributed_sampler": False},
            seed_everything_default=0,
            parser_kwargs={"prog": "python -m lightning_cifar"},
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # it would store more than plain values in checkpoints
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(**kwargs, allow_abbrev=False)  # --model.learning_rat is a typo, not an option

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--recipe", choices=[*RECIPES], help=FLAGS["recipe"][1])
        for name in ("resume", "run_dir", "trust_config"):
            value, meaning = FLAGS[name]
            parser.add_argument(f"--{name}", metavar=value, help=meaning)
        modes = get_args(WandbMode)
        parser.add_argument("--wandb", nargs="?", const="auto", choices=modes, help=FLAGS["wandb"][1])
        for name in ("print_model", "corruptions", "wandb_checkpoints"):
            parser.add_argument(f"--{name}", action="store_true", help=FLAGS[name][1])
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Lightning's; why a logger or callback that was named cannot be made is told in its own words."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if isinstance(error.__cause__, Exception) and "any of the Union subtypes" in str(error):
                raise InputError(f"--trainer: {error.__cause__}") from error
            raise

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, less the arguments that are set below."""
        skipped = {name: {*skip, "weights_only"} for name, skip in LightningCLI.subcommands().items()}
        skipped["test"] |= {"verbose"}
        skipped["predict"] |= {"return_predictions"}
        return skipped

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's; of the commands that were not asked for, without options: making them takes time."""
        if self.args and self.args[0] in self.subcommands().keys() - {subcommand}:
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Checkpoints are loaded without running code that they may hold."""
        arguments = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if str(arguments["ckpt_path"]).endswith(WEIGHTS):
            _, known, tensors = read_weights(Path(arguments["ckpt_path"]))
            self.model.load_state_dict(tensors)
            print(f"weights: {describe_weights(known)}")
            arguments["ckpt_path"] = None  # for Lightning, which knows its own checkpoints alone
        if self.resumed is not None:
            arguments["ckpt_path"] = self.resumed
        return arguments

    def _parse_ckpt_path(self) -> None:
        """Lightning's lets the checkpoint win over flags in silence; here `layered` has put it before them.

        A resumed optimiser keeps the checkpoint's values, and a network its shape, so other ones are refused.
        """
        settings, trains = self.config[self.config.subcommand], self.config.subcommand == "fit"
        goes_on = settings["resume"] is not None and written(Path(settings["resume"]) / "checkpoints")
        if settings["ckpt_path"] is None or goes_on:  # from its own checkpoint, and no more from that
            return
        if trains and settings["ckpt_path"].endswith(WEIGHTS):
            raise InputError(
                f"--ckpt_path {settings['ckpt_path']}: weights alone; fit goes on from its own checkpoints"
            )
        for name, stored in checkpoint_config(Path(settings["ckpt_path"]))["model"].items():
            asked = json.loads(json.dumps(settings["model"].get(name, stored)))
            if asked != stored and (trains or name in ("members", *signature(FiveBlockNet).parameters)):
                raise InputError(f"--model.{name} {asked}: the checkpoint was trained with {stored}")

    @property
    def group(self) -> str:
        """Of runs: the recipe, or what is done with a checkpoint."""
        settings = self.config[self.subcommand]
        files = [str(file) for file in settings["config"] or [] if file]
        recipe: str = settings["recipe"] or (Path(files[-1]).stem if files else "custom")
        return recipe if self.subcommand == "fit" else str(self.subcommand)

    def choose_precision(self) -> None:
        """Puts the faster precision in the place of ``auto``; of several processes, the first one's choice."""
        trainer = self.config[self.subcommand]["trainer"]
        if precision := handed_down().get("precision"):
            return self.set_precision(precision)
        if not is_first():
            raise InputError("--trainer.precision auto is measured by one process, and here all start at once: name it")
        gpu = trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        images = self.datamodule.test.sample(256).images.to("cuda" if gpu else "cpu")
        precision = find_fastest_precision(self.model.network, images / 255)
        print(f"precision: {precision}, the faster one here", flush=True)
        self.set_precision(precision)

    def set_precision(self, precision: str) -> None:
        """For the Trainer and for config.yaml."""
        for config in (self.config, self.config_init):
            config[self.subcommand]["trainer"]["precision"] = precision

    def resolved_config(self) -> str:
        """Every value, as YAML; ``fit --config`` of it repeats the run."""
        config = self.config[self.subcommand].clone()
        for key in TYPED_ALONE:
            config.pop(key)
        for key in ("class_names", "mean", "std"):
            config["model"][key] = self.model.hparams[key]
        text: str = self._parser(self.subcommand).dump(config, skip_none=False)
        return text


def restrict_imports(trusted: str | None) -> None:
    """A configuration is code: what it names is imported before anything is checked. And none comes from the net."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*TRUSTED, *(trusted.split(",") if trusted else [])],
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,
    )
