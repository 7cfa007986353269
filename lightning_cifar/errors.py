"""User-input errors, and how other errors are explained."""

import errno
import math
import os
import traceback
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

# Numbers of OSErrors.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
ALIASES = {"train": "fit", "lr": "learning_rate", "epochs": "max_epochs", "gpus": "devices"}  # what users type


class InputError(ValueError):
    """Bad input from the user: one line that names it and what to do. The command line exits with status 2."""


class DivergenceError(RuntimeError):
    """Training cannot recover. The command line exits with status 3."""


def check_choice(name: str, value: Any, kinds: Any) -> None:
    """Raise `InputError` unless ``value`` is one of the values of the ``Literal`` ``kinds``."""
    if value not in (choices := get_args(kinds)):
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value}")


def check_range(name: str, value: float, interval: str) -> None:
    """Raise `InputError` unless ``value`` is in ``interval``, such as ``[0, 1)``, ``(0, inf)`` or ``[1, inf)``."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high or high == math.inf
    if not (above and below):
        bound = "at least" if interval[0] == "[" else "above"
        words = f"{bound} {interval[1:].split(',')[0]}" if high == math.inf else f"in {interval}"
        raise InputError(f"{name} must be {words}, got {value}")


def check_name(name: str, known: Collection[str], kind: str, examples: str = "") -> None:
    """Raise `InputError`, with the nearest name, unless ``name`` is known; ``examples`` stand for too many names."""
    if name not in known:
        near = [ALIASES[name]] if ALIASES.get(name) in known else get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"no {kind} {name!r}: {meant}There are {examples or ', '.join(known)}")


def require_extra(user: str, extra: str, modules: Sequence[str]) -> None:
    """Raise `InputError` that names the ``extra`` to install unless all ``modules`` are installed."""
    if any(find_spec(name) is None for name in modules):
        raise InputError(f"{user} needs the extra: pip install 'lightning-cifar[{extra}]'")


def reason(error: Exception) -> str:
    """Return the first line of an error's message; its type if it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def explain(error: Exception, trains: bool = True) -> tuple[int | None, str]:
    """Return the exit status and a message for an error that users can understand; None for any other error."""
    if isinstance(error, DivergenceError):
        return 3, str(error)
    if is_about_input(error):
        return 2, str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        file = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        remedy = "checkpoints are complete, and fit --resume continues" if trains else "then run the command again"
        return 1, f"{file}{error.strerror}: free some space; {remedy}"
    if isinstance(error, OSError) and error.errno in FORBIDDEN and error.filename:
        return 2, f"{os.fsdecode(error.filename)}: {error.strerror}"
    if is_out_of_memory(error):
        return 1, (
            "out of memory: lower --data.batch_size in training, --data.eval_batch_size in evaluation, "
            f"--batch_size in predict --images ({reason(error)})"
        )
    return None, ""


def is_out_of_memory(error: Exception) -> bool:
    words = ("can't allocate memory", "not enough memory", "out of memory")  # torch has a type for GPUs only
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in words)
    )


def is_about_input(error: Exception) -> bool:
    """Whether the user's input is at fault.

    Lightning complains about its flags by ``MisconfigurationException`` or, in its own files, by ValueErrors and, if a
    package is missing, ModuleNotFoundErrors.
    """
    if isinstance(error, InputError):
        return True
    import lightning
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, MisconfigurationException) or (
        isinstance(error, ValueError | ModuleNotFoundError) and Path(lightning.__file__).parent in raised_in.parents
    )
