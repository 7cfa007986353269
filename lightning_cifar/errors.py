"""Errors with one-line messages, and checks that raise them."""

import errno
import math
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from numbers import Integral, Real
from textwrap import shorten
from typing import Any, get_args

# Numbers of OSErrors.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
COMMANDS = {"train": "fit", "eval": "test", "evaluate": "test", "infer": "predict", "classify": "predict"}  # as typed


class InputError(ValueError):
    """Bad input from the user: one line that names it and what to do. The command line exits with status 2."""


class DivergenceError(RuntimeError):
    """Training cannot recover. The command line exits with status 3."""


def list_some(names: Collection[Any], most: int = 10) -> str:
    """Return the first names, and how many others there are: ``cat, dog and 998 others``."""
    others = f" and {format_count(len(names) - most, 'other')}" if len(names) > most else ""
    return ", ".join(map(str, [*names][:most])) + others


def check_choice(name: str, value: Any, kinds: Any) -> None:
    """Raise `InputError` unless ``value`` is one of the values of the ``Literal`` ``kinds``."""
    if value not in (choices := get_args(kinds)):
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value}")


def check_flag(name: str, value: Any, other: str = "") -> None:
    """Raise `InputError` unless ``value`` is true or false, or ``other`` if that is given."""
    if not isinstance(value, bool) and not (other and value == other):
        raise InputError(f"{name} must be {f'true, false or {other}' if other else 'true or false'}, got {value!r}")


def check_range(name: str, value: Any, interval: str, whole: bool = False) -> None:
    """Raise `InputError` unless ``value`` is a number, or a whole one, in ``interval``: ``[0, 1)``, ``(0, inf)``."""
    kind: Any = Integral if whole else Real  # those of NumPy too
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InputError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if whole and abs(value) >= 2**63:  # torch and C have none
        raise InputError(f"{name} must be below 2**63, got {value}")
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        least = f"{'at least' if interval[0] == '[' else 'above'} {interval[1:].split(',')[0]}"
        words = f"in {interval}" if high < math.inf else "finite" if value == high else least
        raise InputError(f"{name} must be {words}, got {value}")


def check_list(name: str, value: Any) -> None:
    """Raise `InputError` unless ``value`` is a list or a tuple."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"{name} must be a list, got {value!r}")


def check_name(name: str, known: Collection[str], kind: str, examples: str = "") -> None:
    """Raise `InputError`, with the nearest name, unless ``name`` is known; ``examples`` stand for too many names."""
    if (name := str(name)) not in known:
        found = (get_close_matches(word, known, 1) for word in (COMMANDS.get(name, name), name.rpartition(".")[2]))
        near = next(filter(None, found), [])
        meant = f"did you mean {near[0]}? There" if near else "there"
        raise InputError(f"no {kind} {name!r}: {meant} are {examples or ', '.join(known)}")


def require_extra(user: str, extra: str, modules: Sequence[str]) -> None:
    """Raise `InputError` that names the ``extra`` to install unless all ``modules`` are installed."""
    if any(find_spec(name) is None for name in modules):
        raise InputError(f"{user} {name_extra(extra)}")


def name_extra(extra: str) -> str:
    return f"needs the extra: pip install 'lightning-cifar[{extra}]'"


def format_count(count: int, noun: str, plural: str = "") -> str:
    """Return such as ``1 image`` or ``2,000 images``; name a ``plural`` that is not made by an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def reason(error: Exception) -> str:
    """Return the first line of an error's message, after a colon with the start of the next; or its type."""
    first, *others = str(error).splitlines() or [type(error).__name__]
    return f"{first} {shorten(others[0], 120, placeholder=' ...')}" if first.endswith(":") and others else first
