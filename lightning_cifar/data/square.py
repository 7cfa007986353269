"""The square that every image becomes. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

NonSquare = Literal["crop", "letterbox"]
SIZE = 32  # pixels along a side, by default


@dataclass(frozen=True)
class Square:
    """Square of ``side`` pixels; ``rule`` is how an image that is not square becomes one."""

    side: int = SIZE
    rule: NonSquare = "crop"


SQUARE = Square()
