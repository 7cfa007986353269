"""The square that every image becomes. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

NonSquare = Literal["crop", "letterbox"]
SIZE = 32  # pixels along a side, by default


@dataclass(frozen=True)
class Square:
    """Square of ``side`` pixels; ``rule`` says how an image becomes one that is not square."""

    side: int = SIZE
    rule: NonSquare = "crop"


SQUARE = Square()
