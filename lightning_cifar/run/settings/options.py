"""Commands, options and recipes by name: one-screen help and checks of names. Imports no torch."""

import argparse
import ast
from collections.abc import Collection, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Any, NoReturn

from lightning_cifar.errors import InputError
from lightning_cifar.files import PRETRAINED_NAME
from lightning_cifar.run.settings.suggestions import USE, find_nearest, suggest

RECIPES = {file.stem: file for file in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))}
CHECKPOINT_HELP = f"a run directory, a checkpoint, a .safetensors file, or `{PRETRAINED_NAME}`"
TRAINER_COMMANDS = {
    "fit": "train a recipe; curves, metrics and checkpoints go to a run directory",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images: a table, and test.json",
    "predict": "classify the test images, into a CSV file, or your images (--images)",
}
PACKAGE_COMMANDS = {  # each a module or folder of `lightning_cifar.commands`
    "repeat": "train and test n seeds of a recipe: mean, spread, interval; or compare two results",
    "export": "write a model as safetensors, ONNX or torch.export, checked, with a model card",
    "sweep": "search hyper-parameters of a recipe by validation accuracy, with Optuna",
    "report": "one HTML page of runs: results, curves, mistakes, differences, commands",
    "serve": "a local web page and JSON API that classify images and explain the classes",
    "doctor": "list what is installed, the hardware, the data found, the W&B login",
    "completion": "print a script that completes commands and options in bash or zsh",
}
SUBCOMMANDS = TRAINER_COMMANDS | PACKAGE_COMMANDS
FLAGS = {  # options of the Trainer's commands: placeholder of the value, and meaning
    "recipe": ("NAME", f"one of {', '.join(RECIPES)}; default report"),
    "config": ("FILE", "settings as YAML, such as the config.yaml of a run"),
    "run_dir": ("DIR", "directory of this run, new or empty; default runs/<recipe or command>/<time>"),
    "resume": ("RUN_DIR", "fit: resume a run that was stopped"),
    "ckpt_path": ("PATH", CHECKPOINT_HELP),
    "init_from": ("PATH", "fit: start from these weights, with a new last layer for other classes"),
    "seed_everything": ("SEED", "seed of all random generators; default 0"),
    "wandb": ("[MODE]", "log to Weights & Biases: auto, online or offline"),
    "wandb_checkpoints": ("", "fit: upload the best checkpoint to W&B at the end"),
    "corruptions": ("", "test: also test under common corruptions"),
    "near_duplicates": ("FILE", "test: also without the images in column TestID of this CSV file"),
    "trust_config": ("PACKAGES", "let configurations and checkpoints import from these packages too"),
    "print_model": ("", "print a table of the network's layers and stop"),
    "print_config": ("", "print all settings and stop"),
    "help": ("", "this screen; --help-all: every option with its default"),
}
GROUPS = {
    "data": "dataset, batches, augmentation",
    "model": "network, optimiser, schedule",
    "trainer": "length, device, precision and other options of Lightning",
}
COLUMNS = 80  # of help texts
SEEDS = "[0, 4294967295]"  # NumPy's
LINKED = ("num_classes", "image_size", "non_square")  # of the model: those of the data, no options
# Classes whose signatures define the options of a group: package, file, class.
SIGNATURES = {
    "trainer": [("lightning", "pytorch/trainer/trainer.py", "Trainer")],
    "model": [
        ("lightning_cifar", "train/classifier.py", "ImageClassifier"),
        ("lightning_cifar", "model/network.py", "FiveBlockNet"),
    ],
    "data": [("lightning_cifar", "data/module.py", "CIFAR10DataModule")],
}


class Arguments(argparse.ArgumentParser):
    """Options of a command that is not Lightning's; errors are `InputError`s."""

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(prog=f"python -m lightning_cifar {command}", allow_abbrev=False, **options)
        self.command = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but show ``--help`` even if other options are missing or incomplete."""
        return super().parse_known_args(["--help"] if "--help" in (args or ()) else args, namespace)

    def error(self, message: str) -> NoReturn:
        word = message.removeprefix("unrecognized arguments: ").split()[0]
        name = word[2:].split("=")[0] if word.startswith("--") else ""
        near = find_nearest(name, self.list_options()) if name else []
        meant = f"; did you mean --{near[0]}?" if near else f"; it goes with {USE[name]}" if name in USE else ""
        raise InputError(f"{self.command}: {message}{meant}")

    def list_options(self) -> list[str]:
        """Return the names of the long options."""
        names = (name for action in self._actions for name in action.option_strings)
        return [name[2:] for name in names if name.startswith("--")]


def add_checkpoint(arguments: Arguments, **options: Any) -> None:
    """Add the options that name a checkpoint and the packages that it may import from."""
    default = f"{CHECKPOINT_HELP}, the default" if "default" in options else CHECKPOINT_HELP
    arguments.add_argument("--ckpt_path", help=default, **options)
    placeholder, meaning = FLAGS["trust_config"]
    arguments.add_argument("--trust_config", metavar=placeholder, help=meaning)


@cache
def list_parameters(group: str) -> tuple[str, ...]:
    """Return the option names of a group of `SIGNATURES`, read from the source without importing it."""
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
    names = list(dict.fromkeys(names))  # two classes may have an option in common
    return tuple(name for name in names if group != "model" or name not in LINKED)


def list_group_options(group: str) -> list[str]:
    """Return the options of a group of `SIGNATURES`, such as ``data.batch_size``."""
    return [f"{group}.{name}" for name in list_parameters(group)]


def format_overview() -> str:
    """Return the text of ``--help``: a line for each command and recipe."""
    lines = ["usage: python -m lightning_cifar COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<10} {meaning}" for name, meaning in SUBCOMMANDS.items()]
    lines += ["", "recipes, for `fit --recipe NAME`; default report:"]
    for name, file in RECIPES.items():
        claim = file.read_text().splitlines()[0].removeprefix(f"# {name}: ")
        lines.append(f"  {name:<10} {claim}")
    lines += ["", "COMMAND --help lists the options of a command; --version prints the version."]
    return "\n".join(lines)


def format_short_help(command: str) -> str:
    """Return the text of ``fit --help``: flags with a line each, and the names of all other options."""
    is_predict = command == "predict"
    lines = [f"usage: python -m lightning_cifar {command} [options]", "", TRAINER_COMMANDS[command], ""]
    flags = FLAGS | ({"images": ("PATH...", "your images; options: predict --images --help")} if is_predict else {})
    for name, (value, meaning) in flags.items():
        owner, _, rest = meaning.partition(": ")
        if owner in TRAINER_COMMANDS.keys() - {command}:
            continue
        meaning = rest if owner == command else meaning
        first = f"  --{f'{name} {value}':<22} "
        lines += wrap(meaning, COLUMNS, initial_indent=first, subsequent_indent=" " * len(first))
    for group, claim in GROUPS.items():
        lines += ["", f"--{group}.NAME VALUE, {claim}:"]
        names = " ".join(list_parameters(group))
        lines += wrap(names, COLUMNS, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def check_option(flag: str, command: str = "", others: Collection[str] = ()) -> None:
    """Raise `InputError`, with the nearest option, unless ``flag`` is one of the Trainer's commands.

    Args:
        flag: as typed, or a name.
        command: refuse options that go with another one only; empty: any.
        others: further options that may be meant.
    """
    name = flag.removeprefix("--").split("=")[0].rstrip("+")
    group, *rest = name.split(".")
    if group in SIGNATURES and rest:
        name, known = f"{group}.{rest[0]}", list_group_options(group)  # the parser checks names below a parameter
    else:
        known = [*FLAGS, "verbose", *SIGNATURES]
    use = USE.get(name, "")
    if use and (name not in known or command not in ("", use.split()[0])):
        raise InputError(f"--{name} goes with {use}")
    if name not in known:
        every = [*FLAGS.keys() - {"help"}, *(one for other in SIGNATURES for one in list_group_options(other))]
        near = suggest(name, [*known, *others], every)
        remedy = f"did you mean --{near}?" if near else "fit --help-all lists them"
        raise InputError(f"no option --{name}: {remedy}")


def check_options_of_fit(arguments: Arguments, words: list[str]) -> None:
    """Raise `InputError` for an option that only ``fit`` has or none, in a command that passes its options on to it."""
    for word in (one for one in words if one.startswith("--")):
        if word in ("--print_model", "--wandb_checkpoints") or word.startswith("--print_config"):
            raise InputError(f"{word} does not go with {arguments.command}: use it with fit")
        check_option(word, others=arguments.list_options())


def name_flag(message: str) -> str:
    """Return a library's message about an argument with the argument's option: ``--data.val_size must be ...``."""
    first = message.partition(" ")[0]
    groups = [group for group in ("data", "model") if first in list_parameters(group)]
    return f"--{groups[0]}.{message}" if groups else message


def predicts_files(args: Sequence[str]) -> bool:
    """Return whether this is ``predict --images``, which needs neither Trainer nor dataset."""
    return args[0] == "predict" and any(word.split("=")[0] == "--images" for word in args)


def last_value(flags: list[str], *names: str) -> str | None:
    """Return the last value given for an option; None if there is none."""
    return next(reversed(values_of(flags, *names)), None)


def values_of(flags: list[str], *names: str) -> list[str]:
    """Return every value given for an option, as ``--name value`` or ``--name=value``."""
    values = []
    for position, flag in enumerate(flags):
        if flag in names and position + 1 < len(flags):
            values.append(flags[position + 1])
        elif flag.startswith(tuple(name + "=" for name in names)):
            values.append(flag.split("=", 1)[1])
    return values


def to_list(value: Any) -> list[Any]:
    """Return a list as it is, any other value as its only element; without a value, an empty list."""
    if not value:
        return []
    return value if isinstance(value, list) else [value]


def check_parent(file: Path) -> None:
    """Raise `InputError` unless the directory of ``--output`` exists."""
    if not file.parent.is_dir():
        raise InputError(f"--output {file}: {file.parent} is not a directory: make it first")


def check_output(file: Path, *suffixes: str) -> None:
    """Raise `InputError` if ``--output`` exists and is a directory, a device, or a file of another kind.

    A file is overwritten only if it is empty or has one of the ``suffixes``; it could be the user's model.
    """
    if file.exists() and not file.is_file():
        raise InputError(f"--output {file} is not a file: name a new file, or one to overwrite")
    if file.exists() and file.suffix not in suffixes and file.stat().st_size:
        known = " or ".join(suffixes)
        raise InputError(f"--output {file} exists: name a new file; only one that ends with {known} is overwritten")
