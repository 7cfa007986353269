"""Files of runs and tests that are read again: regular ones, of bounded size."""

import csv
import json
import stat
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

RECORD = "run.json"
MAX_BYTES = 64 << 20  # a run's files are smaller
# Errors raised by reading a file that is damaged or holds something else.
DAMAGED = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError, csv.Error),
    *(SyntaxError, Image.DecompressionBombError),  # Pillow's
    RecursionError,  # nested too deep
)


def read_text(file: Path, limit: int = MAX_BYTES) -> str:
    """Return the text of a file that this package has written, after `check_file`."""
    check_file(file, limit)
    return file.read_text(encoding="utf-8")


def read_json(file: Path) -> Any:
    """Return the content of a JSON file that this package has written, read by `read_text`."""
    return json.loads(read_text(file))


def check_file(file: Path, limit: int = MAX_BYTES) -> None:
    """Raise a ValueError unless ``file`` is a regular file of at most ``limit`` bytes; an OSError if there is none."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    if found.st_size > limit:
        raise ValueError(f"{found.st_size:,} bytes are more than {limit:,}")


def check_size(content: Any, limit: int) -> None:
    """Raise a ValueError if a nested value has more than ``limit`` parts; aliases of YAML count at each place."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > limit:
            raise ValueError(f"it has more than {limit:,} values")
        if isinstance(value, dict | list):
            waiting += [*value, *value.values()] if isinstance(value, dict) else value
