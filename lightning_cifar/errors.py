"""What means that the user's input cannot be used, and what other errors say of themselves."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError


class InputError(ValueError):
    """Bad input from the user: one line that names it and the remedy. The command line exits with status 2."""


def reason(error: Exception) -> str:
    """The first line of what it says; its type where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
