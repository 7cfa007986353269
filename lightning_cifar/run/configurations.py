"""Checks of the configurations that ``--config`` names, before the parser reads them. Imports no torch."""

from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.run.options import SIGNATURES, TRAINER_COMMANDS, check_option

# Limits of configurations; aliases of YAML expand to more than there are atoms.
CONFIG_CHARACTERS, VALUES, VALUE_CHARACTERS = 1_000_000, 10_000, 4_000


def check_config(config: str) -> dict[str, Any]:
    """Return a configuration, a file or YAML itself; refuse what is no mapping, or would take very long to read."""
    import yaml

    file = Path(config)
    try:
        if file.exists() and not file.is_file():
            raise InputError(f"--config {config} is not a file")
        text = file.read_text() if file.is_file() else config
        if len(text) > CONFIG_CHARACTERS:
            raise InputError(f"--config {file} has more than {CONFIG_CHARACTERS:,} characters")
        node = yaml.compose(text, yaml.SafeLoader)
        count_nodes(node, {}) if node else None
    except InputError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"--config {config} is not a text file") from None
    except (OSError, ValueError):
        return {}  # a long text is no path: the parser reads it
    except (yaml.YAMLError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise InputError(f"--config {config}{line}: no valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(node, yaml.MappingNode):
        why = " holds no settings: write them as in the config.yaml of a run" if file.is_file() else ": no such file"
        raise InputError(f"--config {config}{why}")
    try:
        stored: dict[str, Any] = yaml.safe_load(text)
        check_names(stored)
    except (yaml.YAMLError, ValueError) as error:  # tags, unhashable keys, dates that do not exist
        named = f"--config {config}" if file.is_file() else "--config"
        raise InputError(f"{named}: {getattr(error, 'problem', error)}") from error
    return stored


def check_names(stored: dict[str, Any]) -> None:
    """Raise `InputError` if a configuration names an option that does not exist."""
    for name, value in stored.items():
        if name == "resume" and value is not None:
            raise InputError("resume goes on the command line: fit --resume RUN_DIR")
        if name in TRAINER_COMMANDS:
            raise InputError(f"write the settings without the command, {name}")
        if name not in SIGNATURES:
            check_option(f"--{str(name)[:60]}")
            if name in ("recipe", "init_from") and not isinstance(value, str | None):
                raise InputError(f"{name} must be a name or a path, got {str(value)[:60]}")
        elif isinstance(value, dict):
            if "class_path" in value or "init_args" in value:
                raise InputError(f"write the options below {name}, without class_path and init_args")
            for option in value:
                check_option(f"--{name}.{str(option)[:60]}")
        elif not isinstance(value, str | None):  # a string is another file
            raise InputError(f"{name} must hold options, got {str(value)[:60]}")


def count_nodes(node: Any, known: dict[Any, int]) -> int:
    """Return the number of values that a YAML node stands for, aliases expanded.

    Raises:
        InputError: they are too many, a value is too long, or a node holds itself.
    """
    if node not in known:
        known[node] = VALUES + 1  # if it holds itself
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else [pair])]
        known[node] = 1 if isinstance(node.value, str) else 1 + sum(count_nodes(part, known) for part in parts)
    if known[node] > VALUES or (isinstance(node.value, str) and len(node.value) > VALUE_CHARACTERS):
        where = f"line {node.start_mark.line + 1}"
        raise InputError(
            f"a configuration has more than {VALUES:,} values or a value of very many characters ({where})"
        )
    return known[node]
