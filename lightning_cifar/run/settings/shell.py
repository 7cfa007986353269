"""Commands of this package as they are typed in a shell. Imports no torch."""

import shlex
from pathlib import Path
from typing import Any


def quote_path(path: str | Path) -> str:
    """Return a path as it is typed in a shell; one that begins with a dash would be read as an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def split_command(command: str) -> list[str]:
    """Return the words of a command as a shell would; with a quote that is not closed, those between spaces."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


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
