"""Settings of a run, in layers: recipe, checkpoint, ``--config`` files, flags; the later wins. Imports no torch."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.files import timed_directory
from lightning_cifar.options import (
    PRETRAINED_NAME,
    RECIPES,
    SIGNATURES,
    SUBCOMMANDS,
    check_option,
    given,
    one_of,
    option,
)


def layered(args: list[str]) -> list[str]:
    """Puts the recipe and the checkpoint's hyper-parameters before the arguments, as the configurations they are."""
    if args and (args[0] in ("-c", "--config") or args[0].startswith("--config=")):
        raise InputError(f"{args[0]} comes after the subcommand: {', '.join(SUBCOMMANDS)}")
    if not args:
        raise InputError(f"name a command: {', '.join(SUBCOMMANDS)}; --help says more")
    one_of(args[0], SUBCOMMANDS, "command")
    subcommand, flags = args[0], args[1:]
    for flag in flags:
        if flag.startswith("--"):
            check_option(flag)
    if subcommand != "test" and "--corruptions" in flags:
        raise InputError("--corruptions goes with test: test --ckpt_path FILE --corruptions")
    if subcommand == "fit" and restarted() and config_of(option(flags, "--run_dir")):
        kept = ["--wandb_checkpoints"] if "--wandb_checkpoints" in flags else []
        if trusted := option(flags, "--trust_config"):
            kept += ["--trust_config", trusted]
        flags = ["--resume", str(option(flags, "--run_dir")), *kept]
    recipe, config, checkpoint = (
        option(flags, "--recipe"),
        option(flags, "--config", "-c"),
        option(flags, "--ckpt_path"),
    )
    configs = []
    if (resume := option(flags, "--resume")) is not None:
        configs += ["--config", str(config_to_resume(resume, subcommand, flags))]
    elif config is None and recipe is None and subcommand == "fit":
        recipe = "report"
        flags = ["--recipe", recipe, *flags]
    for file in given([*configs, *flags], "--config", "-c"):
        check_text(file)
    if recipe is not None:
        one_of(recipe, RECIPES, "recipe")
        configs += ["--config", str(RECIPES[recipe])]
    if checkpoint is not None:
        from lightning_cifar.train.weights import PRETRAINED, checkpoint_config  # here, for it imports torch

        if checkpoint == PRETRAINED_NAME:
            checkpoint = str(PRETRAINED)
            flags = [*flags, "--ckpt_path", checkpoint]  # the last one counts
        configs += ["--config", json.dumps(checkpoint_config(Path(checkpoint)))]
    elif subcommand != "fit" and not any(flag.startswith(("--help", "-h", "--print_")) for flag in flags):
        raise InputError(f"{subcommand} needs a trained model: name one by --ckpt_path FILE")
    return [subcommand, *configs, *flags]


def own_run_dir(command: str, flags: list[str]) -> Path:
    """Makes what a command of several runs puts them in if nothing is said: ``runs/<command>/<recipe>/<time>``.

    Raises:
        InputError: it cannot be made.
    """
    recipe = option(flags, "--recipe") or ("custom" if option(flags, "--config", "-c") else "report")
    try:
        return timed_directory(Path("runs", command, recipe))
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}; name another by --run_dir") from error


def restarted() -> bool:
    """Whether ``torchrun`` or SLURM started this command again, after it was stopped."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def config_of(run_dir: str | None) -> Path | None:
    """The configuration of a run that was started in ``run_dir``; None where none was."""
    file = Path(run_dir or "") / "config.yaml"
    return file if run_dir is not None and file.is_file() else None


def config_to_resume(run_dir: str, subcommand: str, flags: list[str]) -> Path:
    """The configuration of the run in ``run_dir``, with which ``--resume`` goes on.

    Raises:
        InputError: there is none, or another is asked for beside it.
    """
    if subcommand != "fit":
        raise InputError(f"--resume goes on with training: fit has it, {subcommand} has not")
    for name in ("--recipe", "--config", "-c", "--ckpt_path", "--run_dir"):
        if option(flags, name) is not None:
            raise InputError(f"{name}: --resume {run_dir} goes on with what that run has")
    if (stored := config_of(run_dir)) is None:
        raise InputError(f"--resume {run_dir} is no run's directory: it has no config.yaml")
    return stored


def check_text(config: str) -> None:
    """Refuses a configuration file that is no text, by its name; the parser says what else is wrong with it."""
    try:
        Path(config).read_text()
    except UnicodeDecodeError:
        raise InputError(f"--config {config} is not a text file") from None
    except OSError:
        pass


def differences(settings: dict[str, Any], stored: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every option of a group that has another value in ``stored``: its name, as ``data.root``, and both values."""
    for group in SIGNATURES:
        for name, value in settings[group].items():
            if value != (other := stored[group].get(name)):
                yield f"{group}.{name}", value, other
