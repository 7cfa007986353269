"""Settings in layers, the later wins: signatures' defaults, recipe, checkpoint, ``--config``, flags.

The checkpoint is that of ``--ckpt_path``, or of ``--init_from``, of which only network and image size are taken.

Imports no torch unless a checkpoint is named, so that typing errors are answered at once.
"""

import json
import os
from pathlib import Path

from lightning_cifar.errors import InputError, check_name
from lightning_cifar.run.settings.configurations import check_config, is_complete
from lightning_cifar.run.settings.options import RECIPES, SUBCOMMANDS, check_option, last_value, values_of
from lightning_cifar.run.settings.shell import list_trust, quote_path


def layer(args: list[str]) -> list[str]:
    """Return a Trainer's command with the settings of recipe and checkpoint before its options, as ``--config``."""
    check_words(args)
    command, flags = args[0], args[1:]
    if command == "fit" and is_restarted() and find_config(last_value(flags, "--run_dir")):
        flags = list_resuming_flags(flags)
    check_run_dir(last_value(flags, "--run_dir"))
    typed, flags = split_configs(flags)  # flags win wherever they are typed
    configs: list[str] = []
    recipe, checkpoint = last_value(flags, "--recipe"), last_value(flags, "--ckpt_path")
    if (init_from := last_value(flags, "--init_from")) is not None:
        check_start(command, flags)
    if (resume := last_value(flags, "--resume")) is not None:
        configs += ["--config", str(find_config_to_resume(resume, command, [*typed, *flags]))]
        if Path(resume).name in ("", ".."):  # loggers need a name
            flags = [*flags, "--resume", os.path.abspath(resume)]  # the last one counts
    complete = False
    for file in reversed(values_of([*configs, *typed], "--config")):  # the last one counts
        stored = check_config(file, command)
        if command == "fit" and resume is None and checkpoint is None and init_from is None:
            checkpoint, init_from = stored.get("ckpt_path"), stored.get("init_from")
        if is_complete(stored):
            complete = True
        elif command == "fit" and recipe is None:
            recipe = stored.get("recipe")
    if command == "fit" and recipe is None and not complete:
        recipe = "report" if init_from is None else "finetune"
        flags = ["--recipe", recipe, *flags]
    if recipe is not None:
        check_name(recipe, RECIPES, "recipe")
        configs += ["--config", str(RECIPES[recipe])]
    if init_from is not None:
        from lightning_cifar.run.settings.from_checkpoint import read_network_config

        configs += ["--config", json.dumps(read_network_config(init_from), ensure_ascii=False)]
    if checkpoint is not None:
        from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
        from lightning_cifar.run.weights import find_checkpoint

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
    """Return `layer`'s arguments of ``fit`` for ``repeat`` or ``sweep``, which train many runs, each from the start.

    ``kind`` is what a run is called: ``seed``, ``trial``.
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
    """Return whether ``torchrun`` or SLURM restarts a job that was stopped."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def list_resuming_flags(flags: list[str]) -> list[str]:
    """Return the flags that resume the run which the same command started."""
    kept = ["--wandb_checkpoints"] if "--wandb_checkpoints" in flags else []
    return ["--resume", str(last_value(flags, "--run_dir")), *kept, *list_trust(last_value(flags, "--trust_config"))]


def find_config(run_dir: str | None) -> Path | None:
    """Return the configuration of the run in ``run_dir``; None if there is none."""
    file = Path(run_dir or "") / "config.yaml"
    return file if run_dir is not None and file.is_file() else None


def find_config_to_resume(run_dir: str, command: str, flags: list[str]) -> Path:
    """Return the configuration by which ``--resume`` continues the run in ``run_dir``, unless an option contradicts."""
    if command != "fit":
        raise InputError(f"--resume continues a training run: it goes with fit, not with {command}")
    for name in ("--recipe", "--config", "--ckpt_path", "--init_from", "--run_dir"):
        if last_value(flags, name) is not None:
            raise InputError(f"{name} does not go with --resume {run_dir}, which keeps the settings of that run")
    if (stored := find_config(run_dir)) is None:
        around = (*Path(run_dir).parents[:2], *Path(run_dir).glob("*/"))
        near = [one for one in around if find_config(str(one))]
        hint = f"; did you mean {quote_path(max(near))}?" if near else ""
        raise InputError(f"--resume {run_dir} is not the directory of a run: it has no config.yaml{hint}")
    return stored


def name_settings(layered: list[str]) -> str:
    """Return the recipe's name in a command that `layer` returned; ``custom`` for settings from a file alone."""
    return last_value(layered, "--recipe") or "custom"
