"""Callbacks of a Trainer, by class."""

from typing import TypeVar

from lightning import Callback, Trainer

Kind = TypeVar("Kind", bound=Callback)


def find_callbacks(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """Return the Trainer's callbacks of a class, or of a subclass."""
    return [one for one in trainer.callbacks if isinstance(one, kind)]  # type: ignore[attr-defined]  # set from outside
