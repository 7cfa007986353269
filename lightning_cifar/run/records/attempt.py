"""Calls of loggers that send to a server: its failures never end a run."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_cifar.errors import reason

# Lightning's calls in a run; they return nothing.
CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")


def attempt(logger: Any, service: str, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Make a call of a logger, unless one has failed; warn, with the service's name, if this one fails."""
    if not logger.broken:
        try:
            call(*args, **options)
        except Exception as error:  # for example, its process or its server died
            logger.broken = True
            warnings.warn(f"{service} failed and logs no more of this run: {reason(error)}", stacklevel=2)


def attempt_calls(logger: Logger, service: str) -> None:
    """Let Lightning make each of its calls of the logger by `attempt`."""
    logger.broken = False  # type: ignore[attr-defined]
    for call in CALLS:
        setattr(logger, call, partial(attempt, logger, service, getattr(logger, call)))
