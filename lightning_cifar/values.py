"""Plain values, which checkpoints and configurations can hold."""

import os
from typing import Any

from lightning_cifar.imports import name_function


def to_plain(value: Any) -> Any:
    """Return paths as strings, scalars and arrays of NumPy and torch as numbers and lists, functions by their names."""
    if isinstance(value, dict):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(to_plain, value))
    if callable(value):
        return name_function(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value.tolist() if hasattr(value, "tolist") else value
