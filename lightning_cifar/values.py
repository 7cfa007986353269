"""Plain values, which checkpoints and configurations can hold."""

import os
from typing import Any


def to_plain(value: Any) -> Any:
    """Return paths as strings, scalars and arrays of NumPy and torch as numbers and lists, functions by their names."""
    if isinstance(value, dict):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(to_plain, value))
    if callable(value):  # an object without a name is described, which `import_function` refuses
        return f"{value.__module__}:{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value.tolist() if hasattr(value, "tolist") else value
