"""Plain values, which checkpoints and configurations can hold."""

import os
from enum import Enum
from typing import Any


def to_plain(value: Any) -> Any:
    """Return paths and enums as strings, scalars, arrays, sets and ranges as numbers and lists, functions by names."""
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, dict):
        return {to_plain(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return (tuple if isinstance(value, tuple) else list)(map(to_plain, value))
    if callable(value):  # an object without a name is described, which `import_function` refuses
        return f"{value.__module__}:{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value.tolist() if hasattr(value, "tolist") else value
