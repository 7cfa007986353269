"""Messages of Lightning: warnings, and what its callbacks print when they are asked to, for example by ``verbose``."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET = ("lightning.pytorch", "lightning.fabric")
SHARED = "lightning.pytorch.utilities.rank_zero"  # callbacks log by it, and so does the Trainer at every start
SHOWN = ("lightning.pytorch.callbacks", "lightning.pytorch.tuner", SHARED)


def show_messages() -> None:
    """Drop Lightning's messages, except of callbacks; to call after Lightning is imported, which sets the levels."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SHOWN:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger(SHARED).addFilter(is_of_callback)


def is_of_callback(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or Path(record.pathname).parent.name in ("callbacks", "tuner")


@contextmanager
def restored_messages() -> Iterator[None]:
    """Restore afterwards, for notebooks, what `show_messages` changes."""
    loggers = [logging.getLogger(name) for name in (*QUIET, *SHOWN)]
    levels = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.getLogger(SHARED).removeFilter(is_of_callback)
