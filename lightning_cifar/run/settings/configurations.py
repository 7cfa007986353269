"""Checks of the configurations that ``--config`` names, before the parser reads them. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.run.settings.options import FLAGS, SIGNATURES, TRAINER_COMMANDS, check_option, values_of
from lightning_cifar.run.settings.suggestions import USE

# Limits of configurations; aliases of YAML expand to more than there are atoms.
CONFIG_CHARACTERS, VALUES, VALUE_CHARACTERS = 1_000_000, 10_000, 4_000


def check_config(config: str, command: str = "") -> dict[str, Any]:
    """Return a configuration, a file or YAML itself; refuse what is no mapping, or would take very long to read.

    ``command``: refuse options that go with another one only; empty: any.
    """
    import yaml

    file = Path(config)
    try:
        exists = file.exists()
    except (OSError, ValueError):  # a text that is too long for a path
        exists = False
    if exists and not file.is_file():
        raise InputError(f"--config {config} is not a file")
    try:
        text = file.read_text() if exists else config
        node = check_text(text)
    except UnicodeDecodeError:
        raise InputError(f"--config {config} is not a text file") from None
    except (yaml.YAMLError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise InputError(f"--config {config}{line}: no valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(node, yaml.MappingNode):
        why = " holds no settings: write them as in the config.yaml of a run" if exists else ": no such file"
        raise InputError(f"--config {config}{why}")
    try:
        stored: dict[str, Any] = yaml.safe_load(text)
        check_names(stored, command)
    except (yaml.YAMLError, ValueError) as error:  # tags, unhashable keys, dates that do not exist
        named = f"--config {config}" if exists else "--config"
        raise InputError(f"{named}: {getattr(error, 'problem', error)}") from error
    return stored


def check_text(text: str) -> Any:
    """Return the node of a YAML text; `InputError` if it would take very long to read."""
    import yaml

    if len(text) > CONFIG_CHARACTERS:
        raise InputError(f"a configuration has more than {CONFIG_CHARACTERS:,} characters")
    node = yaml.compose(text, yaml.SafeLoader)
    if node:
        count_nodes(node, {})
    return node


def is_complete(stored: dict[str, Any]) -> bool:
    """Return whether a configuration holds every option, as the config.yaml of a run does."""
    trainer = stored.get("trainer")
    return "ckpt_path" in stored and isinstance(trainer, dict) and "barebones" in trainer


def list_set_options(words: Sequence[str], complete: bool = True) -> set[str]:
    """Return the names of the options that a command sets, such as ``data.batch_size``.

    ``complete``: count those of a configuration that holds every option.
    """
    names = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
    for stored in map(check_config, values_of([*words], "--config", "-c")):
        if complete or not is_complete(stored):
            for group in SIGNATURES.keys() & stored.keys():
                options = stored[group]
                names |= {f"{group}.{name}" for name in options} if isinstance(options, dict) else {group}
    return names


def check_names(stored: dict[str, Any], command: str) -> None:
    """Raise `InputError` if a configuration names an option that does not exist, or sets one of another command."""
    for name, value in stored.items():
        if name == "resume" and value is not None:
            raise InputError("resume goes on the command line: fit --resume RUN_DIR")
        if name in TRAINER_COMMANDS:
            raise InputError(f"write the settings without the command, {name}")
        if name not in SIGNATURES:
            if name in USE and name not in (*FLAGS, "verbose"):
                raise InputError(f"{name} goes on the command line, with {USE[name]}")
            is_set = value not in (None, False) or name == "verbose"  # --print_config writes the others' defaults
            check_option(f"--{str(name)[:60]}", command if is_set else "")
            if name in ("recipe", "init_from", "ckpt_path") and not isinstance(value, str | None):
                raise InputError(f"{name} must be a name or a path, got {str(value)[:60]}")
        elif isinstance(value, dict):
            if "class_path" in value or "init_args" in value:
                raise InputError(f"write the options below {name}, without class_path and init_args")
            for option in value:
                check_option(f"--{name}.{str(option)[:60]}")
        elif value is None:
            raise InputError(f"{name} holds no options: write them below it, indented, or delete the line")
        elif not isinstance(value, str):  # a string is another file
            raise InputError(f"{name} must hold options, got {str(value)[:60]}")


def count_nodes(node: Any, known: dict[Any, int]) -> int:
    """Return the number of values that a YAML node stands for, aliases expanded.

    `InputError` if they are too many, a value is too long, or a node holds itself.
    """
    if node not in known:
        refuse_double_keys(node)
        known[node] = VALUES + 1  # if it holds itself
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else [pair])]
        known[node] = 1 if isinstance(node.value, str) else 1 + sum(count_nodes(part, known) for part in parts)
    if known[node] > VALUES or (isinstance(node.value, str) and len(node.value) > VALUE_CHARACTERS):
        where = f"line {node.start_mark.line + 1}"
        raise InputError(
            f"a configuration has more than {VALUES:,} values or a value of very many characters ({where})"
        )
    return known[node]


def refuse_double_keys(node: Any) -> None:
    """Raise an error of YAML if a mapping has a key twice, of which PyYAML would keep the last value only."""
    import yaml

    lines: dict[tuple[str, str], int] = {}
    if not isinstance(node, yaml.MappingNode):
        return
    for key, _ in node.value:
        name = (key.tag, str(key.value))
        if name in lines and key.value != "<<":
            problem = f"{key.value} is also in line {lines[name]}, and only one of them would count"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        lines[name] = key.start_mark.line + 1
