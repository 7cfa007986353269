"""What the command line says before LightningCLI reads it: recipes by name, and what a checkpoint knows of itself.

Of several sources the later wins: defaults of the signatures, the recipe, the checkpoint's hyper-parameters
(``--ckpt_path``), ``--config`` files, flags.
"""

import json
from pathlib import Path
from typing import Any

import torch

from lightning_cifar.errors import InputError

RECIPES = {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
SUBCOMMANDS = ("fit", "validate", "test", "predict")


def layered(args: list[str]) -> list[str]:
    """Puts the recipe and the checkpoint's hyper-parameters before the arguments, as the configurations they are."""
    if not args or args[0] not in SUBCOMMANDS:
        return args
    subcommand, flags = args[0], args[1:]
    recipe, config, checkpoint = (option(flags, name) for name in ("--recipe", "--config", "--ckpt_path"))
    configs = []
    if recipe is None and config is None and subcommand == "fit":
        recipe = "report"
        flags = ["--recipe", recipe, *flags]
    if recipe in RECIPES:  # the parser refuses others, and lists the choices
        configs += ["--config", str(RECIPES[recipe])]
    if subcommand != "fit" and checkpoint is None and not asks_only(flags):
        raise InputError(f"{subcommand} needs a trained model: name one by --ckpt_path FILE")
    if checkpoint is not None:
        configs += ["--config", json.dumps(checkpoint_config(Path(checkpoint)))]
    return [subcommand, *configs, *flags]


def option(flags: list[str], name: str) -> str | None:
    """The last value given for an option, as ``--name value`` or ``--name=value``."""
    value = None
    for position, flag in enumerate(flags):
        if flag == name and position + 1 < len(flags):
            value = flags[position + 1]
        elif flag.startswith(name + "="):
            value = flag.split("=", 1)[1]
    return value


def asks_only(flags: list[str]) -> bool:
    return any(flag.startswith(("--help", "-h", "--print_")) for flag in flags)


def checkpoint_config(file: Path) -> dict[str, Any]:
    """Model and data arguments that a checkpoint was trained with."""
    if not file.is_file():
        raise InputError(f"--ckpt_path {file}: no such file")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        return {"model": checkpoint["hyper_parameters"], "data": checkpoint["datamodule_hyper_parameters"]}
    except Exception as error:  # a damaged file fails in too many ways to list, none of them worth a traceback
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--ckpt_path {file} is damaged or no checkpoint of this package ({reason})") from error
