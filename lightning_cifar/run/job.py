"""Job: what a command was asked for, parsed, with the model and the data that the settings describe.

`parse` reads the arguments by LightningCLI, which builds the model and the data module; nothing runs yet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.steps import count_batches
from lightning_cifar.errors import InputError, format_count, reason
from lightning_cifar.files import compute_digest
from lightning_cifar.networks.builder import check_logits
from lightning_cifar.run.finetuning import start_from
from lightning_cifar.run.process.hardware import find_fastest_precision
from lightning_cifar.run.process.launcher import check_launcher, choose_devices
from lightning_cifar.run.process.rank_zero import is_rank_zero, values_of_rank_zero
from lightning_cifar.run.process.state import show_messages
from lightning_cifar.run.settings.configurations import list_set_options
from lightning_cifar.run.settings.from_checkpoint import MOST_NAMES
from lightning_cifar.run.settings.options import SIGNATURES
from lightning_cifar.run.settings.parsing import Parsed, continues
from lightning_cifar.run.settings.restrictions import restrict_parsing
from lightning_cifar.run.settings.trainer_options import check_overfit_batches, check_ranges
from lightning_cifar.run.weights import StoredModel, describe_weights, find_checkpoint, load_stored, read_model
from lightning_cifar.train.classifier import ImageClassifier

# Options of one command line, not of what is computed: config.yaml leaves them out.
NOT_IN_CONFIG = (
    "config", "run_dir", "resume", "print_model", "wandb", "wandb_checkpoints", "corruptions",
    "near_duplicates", "trust_config",
)  # fmt: skip
FEWEST_BATCHES = 20  # of an epoch
SMALLEST_BATCH = 64  # smaller ones train no better, and gates may become zero (docs/pictures.md)


@dataclass
class Job:
    """A parsed command, with the model and the data module that its settings describe."""

    command: str  # fit, validate, test or predict
    typed: list[str]  # the words after `python -m lightning_cifar`, for the record
    settings: Namespace  # the value of every option, as plain values
    trainer: dict[str, Any]  # arguments of the Trainer; callbacks, loggers and the like are objects
    model: ImageClassifier
    data: CIFAR10DataModule
    parser: LightningArgumentParser  # writes the settings as YAML
    start: dict[str, str] | None = None  # file and SHA-256 of the weights of --init_from, once they are loaded

    @property
    def group(self) -> str:
        """The recipe of a training run; for other commands, the command."""
        if self.command != "fit":
            return self.command
        files = [str(file) for file in self.settings["config"] or [] if file]
        return self.settings["recipe"] or (Path(files[-1]).stem if files else "custom")

    @property
    def ckpt_path(self) -> Path | None:
        """The checkpoint that the command line names."""
        return Path(path) if (path := self.settings["ckpt_path"]) else None

    @property
    def selects_by_validation(self) -> bool:
        """Whether validation images are held out and evaluated; the test set never selects a checkpoint."""
        return self.data.hparams["held_out"] == "val" and self.trainer["limit_val_batches"] != 0

    @cached_property
    def set_options(self) -> set[str]:
        """Names of the options that flags and configurations set."""
        return list_set_options(self.typed)

    def has_set(self, *names: str) -> bool:
        """Return whether flags or a configuration set one of these options, or ``--resume`` keeps all of them."""
        groups = {name.partition(".")[0] for name in names}  # files of options
        return bool({*names, *groups, "resume"} & self.set_options)

    def leaves_to_data(self, *names: str) -> bool:
        """Return whether the images of a folder decide these options."""
        return self.data.hparams["dataset"] == "folder" and not self.has_set(*names)

    def set_trainer_option(self, name: str, value: Any) -> None:
        """Set an option of the Trainer, and its value in config.yaml."""
        self.trainer[name] = self.settings["trainer"][name] = value

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of every option, as plain values."""
        return dict(yaml.safe_load(self.parser.dump(self.parser.get_defaults(), skip_none=False, skip_check=True)))

    def complete(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a config.yaml, with the defaults of options that its version did not have."""
        groups = {group: self.defaults[group] | (stored.get(group) or {}) for group in SIGNATURES}
        return {"seed_everything": self.defaults["seed_everything"]} | stored | groups

    def dump(self) -> str:
        """Return every setting as YAML; ``fit --config`` on it repeats the run."""
        settings = self.settings.clone()
        for name in NOT_IN_CONFIG:
            settings.pop(name)
        for name in ("class_names", "mean", "std"):
            if len(value := self.model.hparams[name] or ()) <= MOST_NAMES:
                settings["model"][name] = value or None
        return self.parser.dump(settings, skip_none=False, skip_check=True)


def parse(args: Sequence[str], typed: Sequence[str] | None = None) -> Job:
    """Parse a command of the Trainer, seed all random generators, and build its model and data module.

    ``args`` are in layers (see `precedence.layer`), ``typed`` the same as the user typed it. Raises SystemExit after
    printing help or the configuration, if ``args`` request it.
    """
    show_messages()
    command, *options = args
    with restrict_parsing():
        cli = Parsed(command, options)
    trainer = dict(cli.config_init["trainer"])
    trainer["devices"] = cli.config["trainer"]["devices"] = choose_devices(trainer)
    check_launcher(trainer)
    check_ranges(trainer, command == "fit")
    return Job(
        command=command,
        typed=list(typed or args),
        settings=cli.config,
        trainer=trainer,
        model=cast(ImageClassifier, cli.model),
        data=cast(CIFAR10DataModule, cli.datamodule),
        parser=cli.parser,
    )


def load_data(job: Job) -> None:
    """Read the data, split it, and give the model its class names, normalisation and the weights to start from."""
    if job.data.hparams["in_memory"] == "auto":  # rank 0 measured the memory before it read its images
        job.data.hparams["in_memory"] = values_of_rank_zero().get("in_memory", "auto")
    job.data.prepare_data()
    job.data.setup(job.command)
    job.model.adopt(job.data)
    if job.command != "fit":
        return
    check_sizes(job)
    if job.ckpt_path is None:
        if (init_from := job.settings["init_from"]) and not continues(job.settings):
            stored = read_model(find_checkpoint(init_from, "--init_from"))
            print(start_from(job.model, stored), flush=True)
            job.start = {"file": init_from, "sha256": compute_digest(stored.file)}
        choose_batch_size(job)
    check_overfit_batches(job.trainer["overfit_batches"], job.data)
    choose_log_interval(job)


def check_sizes(job: Job) -> None:
    """Raise `InputError` unless the network maps training images of each size to logits: some accept one size only."""
    sizes = job.data.hparams["sizes"] or []
    for size in sizes:
        try:
            check_logits(job.model.networks[0], job.model.hparams["num_classes"], size)
        except Exception as error:  # code of the user may fail in any way
            why = f"the network accepts no {size}x{size} pixels ({reason(error)})"
            raise InputError(f"sizes {sizes}: {why}: set sizes to null") from error


def choose_batch_size(job: Job) -> None:
    """Lower the batch size for a folder of few images to a power of two, and print it, unless the user has set one.

    The recipes' batch sizes suit the 50,000 images of CIFAR-10.
    """
    count, size = len(job.data.train), job.data.hparams["batch_size"]
    if not job.leaves_to_data("data.batch_size") or count >= FEWEST_BATCHES * size:
        return
    largest = max(count // FEWEST_BATCHES, min(SMALLEST_BATCH, count))
    chosen = 1 << (largest.bit_length() - 1)
    if chosen < size:
        job.data.hparams["batch_size"] = job.settings["data"]["batch_size"] = chosen
        steps = count_batches(job.data)
        made = f"{format_count(count, 'image makes', 'images make')} {format_count(steps, 'step')} an epoch"
        print(f"batch size {chosen}: {made}; --data.batch_size sets another", flush=True)


def choose_log_interval(job: Job) -> None:
    """Log in every epoch, also one of few batches, unless the user has set an interval; Lightning would warn.

    A barebones Trainer logs nothing, and would refuse the interval of a recipe.
    """
    if job.has_set("trainer.log_every_n_steps"):
        return
    if job.trainer["barebones"]:
        return job.set_trainer_option("log_every_n_steps", 0)
    batches, interval = count_batches(job.data), job.trainer["log_every_n_steps"]
    for limit in filter(None, (job.trainer["limit_train_batches"], job.trainer["overfit_batches"])):
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if 0 < batches < (50 if interval is None else interval):
        job.set_trainer_option("log_every_n_steps", batches)  # 50: the default


def load_weights(job: Job) -> StoredModel:
    """Load the weights of ``--ckpt_path`` into the model, and return what the file holds."""
    assert job.ckpt_path is not None
    stored, named = read_model(job.ckpt_path), f"--ckpt_path {job.ckpt_path}"
    names = zip(stored.hyper_parameters.get("class_names") or (), job.model.hparams["class_names"] or (), strict=False)
    if differ := next((pair for pair in names if pair[0] != pair[1]), None):  # too many names for settings
        remedy = "name the data of its training by --data.root, or another checkpoint"
        raise InputError(f"{named} knows the class {differ[0]} where the data has {differ[1]}: {remedy}")
    if stored.facts:
        print(f"weights: {describe_weights(stored.facts)}")
    try:
        load_stored(job.model, stored)
    except RuntimeError as error:
        raise InputError(f"{named} holds the weights of another network ({reason(error)})") from error
    return stored


def check_limit(job: Job, name: str) -> None:
    """Raise `InputError` if a limit of evaluated batches leaves none; called before the run has a directory."""
    images = job.data.val if name == "limit_val_batches" else job.data.test
    limit, batches = job.trainer[name], math.ceil(len(images) / job.data.hparams["eval_batch_size"])
    if limit is not None and not (limit if isinstance(limit, int) else limit * batches) >= 1:
        available = format_count(batches, "batch", "batches")
        raise InputError(f"--trainer.{name} {limit} leaves no image: set at least 1 of {available}")


def choose_precision(job: Job) -> None:
    """Replace ``--trainer.precision auto`` by the faster precision; rank 0 chooses for all processes."""
    if job.trainer["precision"] != "auto":
        return
    if precision := values_of_rank_zero().get("precision"):
        return job.set_trainer_option("precision", precision)
    if not is_rank_zero():
        raise InputError("--trainer.precision auto needs Lightning to start the processes: name a precision instead")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = accelerator if accelerator and job.trainer["accelerator"] != "cpu" else torch.device("cpu")
    precision = find_fastest_precision(job.model.network, device, job.data.hparams["image_size"])
    grounds = "the faster one here" if device.type in ("cpu", "cuda") else f"others are not tested on {device.type}"
    print(f"precision: {precision}, {grounds}", flush=True)
    job.set_trainer_option("precision", precision)
