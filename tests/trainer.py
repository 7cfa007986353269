"""A Trainer for tests of its callbacks, modules and loaders."""

from typing import Any

from lightning import Trainer

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def make_quiet_trainer(**options: Any) -> Trainer:
    """Return a Trainer on the CPU that writes and prints nothing, unless an option says so."""
    return Trainer(**{"accelerator": "cpu", **QUIET, **options})
