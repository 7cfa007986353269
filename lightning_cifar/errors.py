"""The one exception that means: what the user gave cannot be used, and the message says what to do."""


class InputError(ValueError):
    """Bad input from the user: one line that names it and the remedy. The command line exits with status 2."""
