"""Parsing by LightningCLI: one-line errors, and configurations that import from known packages only."""

import json
import os
import re
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NoReturn, cast, get_args

import torch
import yaml
from jsonargparse import Namespace, set_dumper
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError, check_range
from lightning_cifar.files import WEIGHTS
from lightning_cifar.run.checkpoints.checkpoint_files import list_checkpoints
from lightning_cifar.run.records.wandb import WandbMode
from lightning_cifar.run.settings.from_checkpoint import checkpoint_config, read_network_config
from lightning_cifar.run.settings.options import FLAGS, LINKED, RECIPES, SEEDS, SIGNATURES, to_list
from lightning_cifar.run.settings.restrictions import refuse_functions, refuse_objects
from lightning_cifar.run.settings.type_errors import shorten_part_error, shorten_type_error
from lightning_cifar.run.weights import NETWORK_OPTIONS
from lightning_cifar.train.classifier import ImageClassifier

LONGEST_REASON = 800  # characters; MLflow names the remedy last, after some 600
NULLABLE = ("check_val_every_n_epoch", "enable_model_summary")  # of the Trainer; others: if it is the default

# Lightning's own type is private (lightning.fabric.connector._PRECISION_INPUT).
Precision = Literal[
    "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true",
    "transformer-engine", "transformer-engine-float16", "32", "bf16", "16", "64", 32, 16, 64,
]  # fmt: skip


class Parser(LightningArgumentParser):
    """LightningArgumentParser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        lines = [re.sub(r"^[\s-]+", "", line) for line in str(message).splitlines()]
        text = "; ".join(line for line in lines if line)
        if denied := re.search(r"Importing '(([^'.]+)[^']*)' is not allowed", text):
            text = (
                f"{denied[1]} is not imported: configurations may name what is in lightning and lightning_cifar; "
                f"if you trust this one, add --trust_config {denied[2]}"
            )
        elif key := re.match(r'Parser key "([^"]+)":', text):
            text = shorten_type_error(key[1], text)
        raise InputError(text) from ex

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Return settings as YAML that is read back as it was."""
        if not kwargs.get("with_comments") and kwargs.get("format", "parser_mode") in ("parser_mode", "yaml"):
            kwargs["format"] = "quoting"
        return super().dump(name_objects(namespace.clone()), *args, **kwargs)


def find_reason(callbacks: Any) -> Exception | None:
    """Return the error of the first configured callback that cannot be built; jsonargparse drops it."""
    for one in to_list(callbacks):
        module, _, name = getattr(one, "class_path", "").rpartition(".")
        try:
            if module:
                getattr(import_module(module), name)(**vars(one.get("init_args") or Namespace()))
        except Exception as error:
            return error
    return None


def name_objects(value: Any) -> Any:
    """Replace devices, dtypes and enums, such as defaults of callbacks, by their names, which are accepted too."""
    if isinstance(value, Namespace):
        for name, part in list(vars(value).items()):
            setattr(value, name, name_objects(part))
    elif isinstance(value, dict):
        return {name: name_objects(part) for name, part in value.items()}
    elif isinstance(value, list):
        return [name_objects(part) for part in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, torch.device | torch.dtype) else value


class Quoting(yaml.SafeDumper):
    """Quotes strings such as 1e5, which is a number to jsonargparse and a string to PyYAML."""


Quoting.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="'" if text[:1] in set("+-.0123456789") else None
    ),
)
set_dumper("quoting", lambda settings: yaml.dump(settings, Dumper=Quoting, sort_keys=False))


class ConfiguredTrainer(Trainer):
    """Lightning's Trainer with ``--trainer.precision auto``, which `choose_precision` replaces before it is built.

    Args:
        precision: Lightning's, or ``auto``: ``bf16-mixed`` or ``32-true``, whichever is faster on this machine.
        limit_train_batches: a number of batches (2) or a share of them (0.5), as are the other limits. Lightning
            annotates them the other way round, by which 1 is read as 1.0, all batches.
    """

    def __init__(
        self,
        precision: Precision | None = None,
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


class Parsed(LightningCLI):
    """LightningCLI over `ImageClassifier` and `CIFAR10DataModule` that parses and builds both, and runs nothing."""

    def __init__(self, command: str, options: list[str]) -> None:
        self.command = command
        super().__init__(
            ImageClassifier,
            CIFAR10DataModule,
            trainer_class=ConfiguredTrainer,
            save_config_callback=None,  # run/trainer.py writes config.yaml, for every command
            # --print_model shows the summary. One device unless more are asked for, and the loaders shard themselves.
            trainer_defaults={"enable_model_summary": False, "devices": 1, "use_distributed_sampler": False},
            seed_everything_default=0,
            parser_kwargs={"prog": f"python -m lightning_cifar {command}"},
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # it would store more than plain values in checkpoints
            args=options,
            run=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(**kwargs, allow_abbrev=False)  # --model.learning_rat is a typo, not an option

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--recipe", choices=[*RECIPES], help=FLAGS["recipe"][1])
        for name in ("resume", "run_dir", "trust_config", "ckpt_path", "init_from", "near_duplicates"):
            value, meaning = FLAGS[name]
            parser.add_argument(f"--{name}", metavar=value, help=meaning)
        modes = get_args(WandbMode)
        parser.add_argument("--wandb", nargs="?", const="auto", choices=modes, help=FLAGS["wandb"][1])
        for name in ("print_model", "corruptions", "wandb_checkpoints"):
            parser.add_argument(f"--{name}", action="store_true", help=FLAGS[name][1])
        if self.command == "validate":
            parser.add_argument("--verbose", type=bool, default=True, help="print a table of the results; default true")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        for name in ("image_size", "non_square"):
            parser.link_arguments(f"data.{name}", f"model.{name}")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        check_range("--seed_everything", self.config["seed_everything"], SEEDS, whole=True)

    def before_instantiate_classes(self) -> None:
        for name in ("run_dir", "resume", "ckpt_path", "init_from", "near_duplicates"):
            # In a configuration, no shell has expanded a `~`.
            self.config[name] = self.config[name] and os.path.expanduser(self.config[name])
        defaults = self.parser.get_defaults()
        for group in SIGNATURES:
            refuse_nulls(group, self.config[group], defaults[group])
        for group in ("model", "data"):
            refuse_objects(group, self.config[group].as_dict())
        refuse_contradictions(self.command, self.config)
        refuse_functions(self.config["trainer"].as_dict())

    def instantiate_classes(self) -> None:
        """Build model and data module; explain in one line why a callback or logger cannot be built."""
        try:
            super().instantiate_classes()
        except InputError:
            raise
        except ValueError as error:
            if "validate" not in str(error) and "Expected" not in str(error):
                raise
            cause = find_reason(self.config["trainer"]["callbacks"]) or error.__cause__
            words = str(cause) if isinstance(cause, Exception) else "a callback or logger cannot be built"
            raise InputError(f"--trainer: {shorten_part_error(words)[:LONGEST_REASON]}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build none: `run.trainer.open_run` does, when the run has its directory."""
        return cast(Trainer, None)


def refuse_nulls(group: str, settings: Namespace, defaults: Namespace) -> None:
    """Raise `InputError` if a configuration sets an option to null that needs a value, which jsonargparse accepts."""
    for name, value in vars(settings).items():
        default = defaults.get(name)
        if value is None and default is not None and name not in NULLABLE:
            raise InputError(f"--{group}.{name} null: set a value, or leave it out for the default, {default}")


def refuse_contradictions(command: str, settings: Namespace) -> None:
    """Refuse options that contradict the checkpoint: a resumed optimiser keeps its values, and a network its shape."""
    trained = [settings[name] for name in ("ckpt_path", "init_from", "resume") if settings[name] is not None]
    if command == "fit" and settings["model"]["freeze"] and not trained:
        raise InputError(
            f"--model.freeze {settings['model']['freeze']} needs trained weights: add --init_from pretrained, or a run"
        )
    if continues(settings):
        return
    checkpoint, start, trains = settings["ckpt_path"], settings["init_from"], command == "fit"
    if checkpoint is not None:
        if trains and checkpoint.endswith(WEIGHTS):
            raise InputError(f"--ckpt_path {checkpoint} holds weights only: fit continues from a checkpoint (.ckpt)")
        stored, why = checkpoint_config(Path(checkpoint))["model"], "the checkpoint was trained with"
    else:
        stored = read_network_config(start)["model"] if trains and start is not None else {}
        why = "the network of --init_from has"
    for name, value in stored.items():
        asked = json.loads(json.dumps(settings["model"].get(name, value)))
        if asked != value and (name in NETWORK_OPTIONS or (trains and checkpoint is not None)):
            raise InputError(f"--{'data' if name in LINKED else 'model'}.{name} {asked}: {why} {value}")


def continues(settings: Namespace) -> bool:
    """Return whether a resumed run continues from its own checkpoint."""
    return settings["resume"] is not None and bool(list_checkpoints(Path(settings["resume"]) / "checkpoints"))
