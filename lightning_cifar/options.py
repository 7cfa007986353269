"""Commands, options and recipes by name: one-screen help, typo suggestions. Imports no torch."""

import argparse
import ast
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Any, NoReturn

from lightning_cifar.errors import InputError

RECIPES = {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
TRAINER_COMMANDS = {
    "fit": "train, by a recipe; the run's directory holds curves, numbers, checkpoints",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images: one table, and test.json",
    "predict": "write a checkpoint's predictions of the test images, or by --images of your own, as CSV",
}
OWN_COMMANDS = {  # each a module of `lightning_cifar.commands`
    "repeat": "train and test a recipe with several seeds: mean, spread, interval; or compare two such results",
    "export": "write a model as safetensors, ONNX or torch.export, checked, with a model card",
    "sweep": "search hyper-parameters of a recipe by validation accuracy, with Optuna",
    "report": "one HTML page of one or more runs: results, curves, mistakes, differences, commands",
    "serve": "a local web page and JSON API: drop a picture, see its classes and what spoke for them",
    "doctor": "what is installed, what computes, what data is found, whether W&B is logged in",
    "completion": "print what completes commands and options in bash or zsh",
}
SUBCOMMANDS = TRAINER_COMMANDS | OWN_COMMANDS
FLAGS = {  # of the commands of the Trainer: what stands after the option, and what it does
    "recipe": ("NAME", f"one of {', '.join(RECIPES)}; `report` where none is named"),
    "config": ("FILE", "values as YAML, such as the config.yaml of a run"),
    "run_dir": ("DIR", "directory of this run, new or empty; default runs/<recipe>/<time>"),
    "resume": ("RUN_DIR", "fit: go on with a run that was stopped"),
    "ckpt_path": ("FILE", "a checkpoint, a .safetensors file, or `pretrained`, the model in this package"),
    "seed_everything": ("SEED", "of all that is random; default 0"),
    "wandb": ("[MODE]", "log to Weights & Biases: online if logged in, else offline, or as named"),
    "wandb_checkpoints": ("", "fit: send the best checkpoint to W&B too, at the end"),
    "corruptions": ("", "test: under common corruptions too"),
    "trust_config": ("PACKAGES", "packages, by commas, that configurations may import from too"),
    "print_model": ("", "print the network's table and stop"),
    "print_config": ("", "print all values and stop"),
    "help": ("", "this screen; --help-all: every option with its meaning and default"),
}
GROUPS = {
    "data": "what is learnt from",
    "model": "the network and how it is trained",
    "trainer": "length, device, precision, and all else that Lightning's Trainer takes",
}


class Arguments(argparse.ArgumentParser):
    """The options of a command that is not Lightning's."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(prog=f"python -m lightning_cifar {command}", allow_abbrev=False, **options)
        self.command = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, but ``--help`` is answered whatever else is missing or half typed."""
        return super().parse_known_args(["--help"] if "--help" in (args or ()) else args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.command}: {message}")


def overview() -> str:
    """What ``--help`` says: commands and recipes, a line each."""
    lines = ["usage: python -m lightning_cifar COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<10} {meaning}" for name, meaning in SUBCOMMANDS.items()]
    lines += ["", "recipes, for `fit --recipe NAME`; `report` where none is named:"]
    for name, file in RECIPES.items():
        claim = file.read_text().splitlines()[0].removeprefix(f"# {name}: ")
        lines.append(f"  {name:<10} {claim}")
    lines += ["", "COMMAND --help lists the options of a command; --version prints the version."]
    return "\n".join(lines)


def short_help(command: str) -> str:
    """What ``fit --help`` says: the options of its own in a line each, the names of the others."""
    lines = [f"usage: python -m lightning_cifar {command} [options]", "", TRAINER_COMMANDS[command], ""]
    lines += [f"  --{f'{name} {value}':<22} {meaning}" for name, (value, meaning) in FLAGS.items()]
    if command == "predict":
        lines += ["  --images PATH...         your own pictures, with options of their own: predict --images --help"]
    for group, claim in GROUPS.items():
        lines += ["", f"--{group}.NAME VALUE, {claim}:"]
        lines += wrap(" ".join(parameters(group)), 110, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def one_of(given: str, known: dict[str, Any], what: str) -> None:
    """Refuses what is not among ``known``, with the nearest that is."""
    if given not in known:
        near = get_close_matches(given, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"no {what} {given!r}: {meant}There are {', '.join(known)}")


def check_option(flag: str) -> None:
    """Refuses an option that there is not, naming the nearest, before what has the signatures is imported."""
    name = flag.removeprefix("--").split("=")[0].rstrip("+")
    group, *rest = name.split(".")
    if group in SIGNATURES and rest:
        name = f"{group}.{rest[0]}"  # what is below a parameter is for the parser to judge
        known = [f"{group}.{parameter}" for parameter in ("help", *parameters(group))]
    else:
        known = [*FLAGS, "verbose", *SIGNATURES]
    if name not in known:
        near = get_close_matches(name, known, 1)
        remedy = f"did you mean --{near[0]}?" if near else "fit --help-all lists them"
        raise InputError(f"no option --{name}: {remedy}")


def option(flags: list[str], *names: str) -> str | None:
    """The last value given for an option."""
    return next(reversed(given(flags, *names)), None)


def given(flags: list[str], *names: str) -> list[str]:
    """Every value given for an option, as ``--name value`` or ``--name=value``."""
    values = []
    for position, flag in enumerate(flags):
        if flag in names and position + 1 < len(flags):
            values.append(flags[position + 1])
        elif flag.startswith(tuple(name + "=" for name in names)):
            values.append(flag.split("=", 1)[1])
    return values


def check_output(file: Path) -> None:
    """Refuses, by an `InputError`, an ``--output`` that is there and no file: a directory, a device."""
    if file.exists() and not file.is_file():
        raise InputError(f"--output {file} is no file: name a new one, or one to write over")


PRETRAINED_NAME = "pretrained"  # for --ckpt_path: the model in this package
WEIGHTS = ".safetensors"  # weights alone; every other checkpoint is Lightning's
# Where the signatures stand that the options of a group are made from: package, file, class.
SIGNATURES = {
    "trainer": [("lightning", "pytorch/trainer/trainer.py", "Trainer")],
    "model": [
        ("lightning_cifar", "train/classifier.py", "ImageClassifier"),
        ("lightning_cifar", "model/network.py", "FiveBlockNet"),
    ],
    "data": [("lightning_cifar", "data/module.py", "CIFAR10DataModule")],
}


def parameters(group: str) -> list[str]:
    """Names of the parameters that make the options of a group of `SIGNATURES`, read from the source."""
    names = []
    for package, file, class_name in SIGNATURES[group]:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.walk(ast.parse((Path(spec.origin).parent / file).read_text())):
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                (init,) = (part for part in node.body if getattr(part, "name", "") == "__init__")
                assert isinstance(init, ast.FunctionDef)
                names += [argument.arg for argument in (*init.args.args[1:], *init.args.kwonlyargs)]
    return list(dict.fromkeys(names))  # two classes may share one
