"""User-input errors, and how other errors are explained."""

import errno
import math
import os
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

# Of an OSError.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


class InputError(ValueError):
    """Bad input from the user: one line that names it and the remedy. The command line exits with status 2."""


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


def require_extra(user: str, extra: str, modules: Sequence[str]) -> None:
    """Raise `InputError` that names the ``extra`` to install unless all ``modules`` are installed."""
    if any(find_spec(name) is None for name in modules):
        raise InputError(f"{user} needs the extra: pip install 'lightning-cifar[{extra}]'")


def reason(error: Exception) -> str:
    """The first line of what it says; its type where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def told(error: Exception) -> tuple[int | None, str]:
    """Exit status and words for an error that has an explanation; no status for one that has none."""
    if is_about_input(error):
        return 2, str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        what = f"{error.filename}: " if error.filename else ""
        kept = "what was saved is whole, and fit --resume goes on with training"
        return 1, f"{what}{error.strerror}: free some space; {kept}"
    if isinstance(error, OSError) and error.errno in FORBIDDEN and error.filename:
        return 2, f"{os.fsdecode(error.filename)}: {error.strerror}"
    if out_of_memory(error):
        return 1, (
            "out of memory: a lower --data.batch_size needs less in training, a lower --data.eval_batch_size in "
            f"evaluation, a lower --batch_size in predict --images ({reason(error)})"
        )
    from lightning_cifar.errors import DivergenceError

    return (3, str(error)) if isinstance(error, DivergenceError) else (None, "")


def out_of_memory(error: Exception) -> bool:
    # torch has a type for GPUs, and words for the CPU.
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in words)
    )


def is_about_input(error: Exception) -> bool:
    """Whether the user's input is at fault.

    Our complaints have their own type; Lightning's about its flags are ``MisconfigurationException``, or ValueErrors
    and, where something is not installed, ModuleNotFoundErrors that its own files raise.
    """
    if isinstance(error, InputError):
        return True
    import lightning
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, MisconfigurationException) or (
        isinstance(error, ValueError | ModuleNotFoundError) and Path(lightning.__file__).parent in raised_in.parents
    )


class DivergenceError(RuntimeError):
    """Training went astray. The command line exits with status 3."""
