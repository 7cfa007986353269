"""What means that the user's input cannot be used, and what other errors say of themselves."""

import errno
from typing import Any, get_args

# Of an OSError.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


class InputError(ValueError):
    """Bad input from the user: one line that names it and the remedy. The command line exits with status 2."""


def check_choice(name: str, given: Any, kinds: Any) -> None:
    """Refuses, by an `InputError`, what is not among the values of a ``Literal``."""
    if given not in (choices := get_args(kinds)):
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {given}")


def reason(error: Exception) -> str:
    """The first line of what it says; its type where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
