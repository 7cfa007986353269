"""Limits of the parser: imports from trusted packages, nothing from the network, no text that takes very long."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import _common, _optionals, get_loader, set_loader, set_parsing_settings

from lightning_cifar.errors import InputError
from lightning_cifar.imports import is_trusted, trusted
from lightning_cifar.run.settings.configurations import check_text

TRUSTED = ("lightning", "pytorch_lightning", "lightning_cifar")  # packages that configurations may import from


@contextmanager
def restrict_parsing() -> Iterator[None]:
    """Let the parser import from trusted packages only, for importing runs code, and limit every text that it loads.

    Besides ``--config`` these are files that a configuration or an option such as ``--model`` names, and values.
    """
    for name in trusted.get():
        if not all(map(str.isidentifier, name.split("."))):
            such = Path(name.partition(":")[0]).stem.replace("-", "_") or "mine"
            raise InputError(f"--trust_config {name}: name a package or module, such as {such}")
    settings, read_mode = dict(_common.parsing_settings), _optionals._get_config_read_mode()
    load = get_loader("yaml")

    def load_limited(text: str) -> Any:
        try:
            check_text(text)
        except RecursionError:
            raise InputError("a value is nested too deeply") from None
        return load(text)

    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*TRUSTED, *trusted.get()],
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,
    )
    set_loader("yaml", load_limited, (yaml.YAMLError,))
    try:
        yield
    finally:  # jsonargparse keeps them for the whole process; the first two have no public way to read them
        _common.parsing_settings.update(settings)
        _optionals._set_config_read_mode(urls_enabled="u" in read_mode, fsspec_enabled="s" in read_mode)
        set_loader("yaml", load, (yaml.YAMLError,))


def refuse_functions(value: Any) -> None:
    """Refuse functions that the value of an option would call, unless they are of packages that the user trusts."""
    if isinstance(value, dict) and isinstance(path := value.get("class_path"), str):
        module, _, name = path.rpartition(".")
        if not is_trusted(module, TRUSTED):  # importing it runs its code
            refuse(path)
        called = getattr(import_module(module), name)
        if not is_trusted(module) and not isinstance(called, type):
            refuse(path)
        defaults = signature(called).parameters
        value = {
            key: part
            for key, part in (value.get("init_args") or {}).items()
            if key not in defaults or part is not defaults[key].default
        }
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            refuse_functions(part)
    elif callable(value) and not is_trusted(str(value.__module__)):
        refuse(f"{value.__module__}.{getattr(value, '__qualname__', repr(value))}")


def refuse(path: str) -> NoReturn:
    raise InputError(
        f"{path} is a function that the configuration would call: if you trust this one, "
        f"add --trust_config {path.partition('.')[0]}"
    )


def refuse_objects(option: str, value: Any) -> None:
    """Refuse a ``class_path`` in an option of model or data, which jsonargparse would call; they have plain values."""
    if isinstance(value, dict):
        if "class_path" in value:
            raise InputError(f"--{option} holds a class_path: write plain values")
        for name, part in value.items():
            refuse_objects(f"{option}.{name}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            refuse_objects(option, part)
    elif callable(value):
        raise InputError(f"--{option} holds a function: write its name, PACKAGE.MODULE:FUNCTION")
