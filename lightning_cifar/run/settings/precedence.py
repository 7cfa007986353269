"""Settings in layers, the later wins: signatures' defaults, recipe, checkpoint, ``--config``, flags.

The checkpoint is that of ``--ckpt_path``, or of ``--init_from``, of which only network and image size are taken.

Imports no torch unless a checkpoint is named, so that typing errors are answered at once.
"""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError, check_name
from lightning_cifar.run.settings.configurations import check_config, is_complete
from lightning_cifar.run.settings.options import RECIPES, SIGNATURES, SUBCOMMANDS, check_option, last_value, values_of

# Options that may change when a run is resumed, with everything that begins with ``trainer.``.
MAY_CHANGE = {"data.root", "data.url", "data.archive", "data.labels"}
MAY_CHANGE |= {"data.num_workers", "data.in_memory", "data.eval_batch_size"}


def layer(args: list[str]) -> list[str]:
    """Return the arguments with the recipe's and the checkpoint's settings put before them as ``--config``.

    Args:
        args: a command of the Trainer and its options.

    Raises:
        InputError: no such command, option, recipe, checkpoint or run; or options that exclude each other.
    """
    check_words(args)
    command, flags = args[0], args[1:]
    if command == "fit" and is_restarted() and config_file(last_value(flags, "--run_dir")):
        flags = resuming_flags(flags)
    check_run_dir(last_value(flags, "--run_dir"))
    typed, flags = split_configs(flags)  # flags win wherever they are typed
    configs: list[str] = []
    recipe, checkpoint = last_value(flags, "--recipe"), last_value(flags, "--ckpt_path")
    if (init_from := last_value(flags, "--init_from")) is not None:
        check_start(command, flags)
    if (resume := last_value(flags, "--resume")) is not None:
        configs += ["--config", str(config_to_resume(resume, command, [*typed, *flags]))]
        if Path(resume).name in ("", ".."):  # loggers need a name
            flags = [*flags, "--resume", os.path.abspath(resume)]  # the last one counts
    elif command == "fit" and recipe is None and not typed:
        recipe = "report" if init_from is None else "finetune"
        flags = ["--recipe", recipe, *flags]
    for file in reversed(values_of([*configs, *typed], "--config")):  # the last one counts
        stored = check_config(file)
        if command == "fit" and resume is None and checkpoint is None and init_from is None:
            checkpoint, init_from = stored.get("ckpt_path"), stored.get("init_from")
        if command == "fit" and recipe is None and not is_complete(stored):
            recipe = stored.get("recipe")
    if recipe is not None:
        check_name(recipe, RECIPES, "recipe")
        configs += ["--config", str(RECIPES[recipe])]
    if init_from is not None:
        from lightning_cifar.run.settings.from_checkpoint import network_config

        configs += ["--config", json.dumps(network_config(init_from), ensure_ascii=False)]
    if checkpoint is not None:
        from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
        from lightning_cifar.train.weights import find_checkpoint

        checkpoint = str(find_checkpoint(checkpoint))
        flags = [*flags, "--ckpt_path", checkpoint]  # the last one counts
        configs += ["--config", json.dumps(checkpoint_config(Path(checkpoint)), ensure_ascii=False)]
    elif command != "fit" and not any(flag.startswith(("--help", "-h", "--print_")) for flag in flags):
        hint = "; to classify your images, name them by --images" if command == "predict" else ""
        raise InputError(f"{command} needs a trained model: name a run directory or a file by --ckpt_path{hint}")
    return [command, *configs, *typed, *flags]


def check_words(args: list[str]) -> None:
    """Raise `InputError` unless the first argument is a command, and each option is one of this command."""
    if not args:
        raise InputError(f"name a command: {', '.join(SUBCOMMANDS)}; --help lists what they do")
    if args[0] in ("-c", "--config") or args[0].startswith("--config="):
        raise InputError(f"{args[0]} comes after the command: {', '.join(SUBCOMMANDS)}")
    command, flags = args[0], args[1:]
    check_name(command, SUBCOMMANDS, "command")
    for flag in flags:
        if flag.startswith("--"):
            check_option(flag, command, ["images"] if command == "predict" else [])


def layer_series(command: str, options: list[str], kind: str) -> list[str]:
    """Return `layer`'s arguments of ``fit`` for a command that trains many runs, each from the start.

    Args:
        command: ``repeat`` or ``sweep``.
        options: of ``fit``.
        kind: what a run is called: ``seed``, ``trial``.

    Raises:
        InputError: as `layer`, or an option would continue another run.
    """
    why = f"{command} trains every {kind} from the start"
    for name in ("--ckpt_path", "--resume"):
        if last_value(options, name) is not None:
            raise InputError(f"{name}: {why}; --run_dir resumes an earlier {command}")
    fit = layer(["fit", *options])
    if last_value(fit, "--ckpt_path") is not None:
        raise InputError(f"ckpt_path in a configuration: {why}")
    return fit


def check_run_dir(run_dir: str | Path | None) -> None:
    """Raise `InputError` if a path looks like a URL, by which Lightning would write elsewhere, or cannot be printed."""
    if ":" in (name := str(run_dir or "")) or not name.isprintable():
        raise InputError(f"--run_dir {name!r} names no local directory: use no colon and no unprintable characters")


def split_configs(flags: list[str]) -> tuple[list[str], list[str]]:
    """Return the configurations among the flags, each as ``--config FILE``, and the other flags."""
    typed, others = list[str](), list[str]()
    words = iter(flags)
    for word in words:
        if word in ("--config", "-c"):
            typed += ["--config", *([file] if (file := next(words, None)) is not None else [])]
        elif word.startswith("--config="):
            typed += ["--config", word.partition("=")[2]]
        else:
            others.append(word)
    return typed, others


def check_start(command: str, flags: list[str]) -> None:
    """Raise `InputError` if ``--init_from`` does not go with the command or with another option."""
    if command != "fit":
        raise InputError(f"--init_from starts a training: it goes with fit, not with {command}")
    if last_value(flags, "--ckpt_path") is not None:
        raise InputError(
            "--init_from starts a new training, --ckpt_path continues one with its optimiser and rates: drop one"
        )


def is_restarted() -> bool:
    """Whether ``torchrun`` or SLURM restarts a job that was stopped."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def resuming_flags(flags: list[str]) -> list[str]:
    """Return the flags that resume the run which the same command started."""
    kept = ["--wandb_checkpoints"] if "--wandb_checkpoints" in flags else []
    return ["--resume", str(last_value(flags, "--run_dir")), *kept, *list_trust(last_value(flags, "--trust_config"))]


def config_file(run_dir: str | None) -> Path | None:
    """Return the configuration of the run in ``run_dir``; None if there is none."""
    file = Path(run_dir or "") / "config.yaml"
    return file if run_dir is not None and file.is_file() else None


def config_to_resume(run_dir: str, command: str, flags: list[str]) -> Path:
    """Return the configuration by which ``--resume`` continues the run in ``run_dir``.

    Raises:
        InputError: there is no run, or an option names another one.
    """
    if command != "fit":
        raise InputError(f"--resume continues a training run: it goes with fit, not with {command}")
    for name in ("--recipe", "--config", "--ckpt_path", "--init_from", "--run_dir"):
        if last_value(flags, name) is not None:
            raise InputError(f"{name} does not go with --resume {run_dir}, which keeps the settings of that run")
    if (stored := config_file(run_dir)) is None:
        around = (*Path(run_dir).parents[:2], *Path(run_dir).glob("*/"))
        near = [one for one in around if config_file(str(one))]
        hint = f"; did you mean {quote_path(max(near))}?" if near else ""
        raise InputError(f"--resume {run_dir} is not the directory of a run: it has no config.yaml{hint}")
    return stored


def quote_path(path: str | Path) -> str:
    """Return a path as it is typed in a shell; one that begins with a dash would be read as an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def format_command(*words: str | Path) -> str:
    """Return a command of this package as it is typed in a shell."""
    typed = (quote_path(word) if isinstance(word, Path) else shlex.quote(word) for word in words)
    return " ".join(["python -m lightning_cifar", *typed])


def format_test_command(checkpoint: Path, root: Any, labels: Any, trusted: str | None) -> str:
    """Return the command that tests a checkpoint, with what that lacks: where the data lies, and whom to trust."""
    places = {"--ckpt_path": checkpoint, "--data.root": root, "--data.labels": labels}
    options: list[str | Path] = [word for name, place in places.items() if place for word in (name, Path(str(place)))]
    return format_command("test", *options, *list_trust(trusted))


def list_trust(packages: str | None) -> list[str]:
    """Return the option ``--trust_config`` as it was given, which later commands on a run need too."""
    return ["--trust_config", packages] if packages else []


def name_settings(flags: list[str]) -> str:
    """Return the recipe's name; ``custom`` for settings from a file."""
    return last_value(flags, "--recipe") or ("custom" if last_value(flags, "--config", "-c") else "report")


def differences(settings: dict[str, Any], stored: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each option that differs: its name, such as ``data.root``, its value and the stored value."""
    for group in SIGNATURES:
        for name, value in settings[group].items():
            if value != (other := (stored.get(group) or {}).get(name)):
                yield f"{group}.{name}", value, other


def list_changes(settings: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """Return a line for each option that differs from the ``stored`` settings of the run.

    Raises:
        InputError: an option differs that would make it another run.
    """
    changes = []
    for name, value, before in differences(settings, stored):
        if not name.startswith("trainer.") and name not in MAY_CHANGE:
            raise InputError(f"--{name} {value}: the run to resume was started with {before}")
        changes.append(f"--{name} {value}, before {before}")
    if settings["seed_everything"] != stored["seed_everything"]:
        raise InputError(f"--seed_everything: the run to resume has the seed {stored['seed_everything']}")
    return changes
