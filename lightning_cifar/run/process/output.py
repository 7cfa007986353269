"""Output whose reader may end before training does, as `tee` does after Ctrl-C, or a terminal that is closed."""

import io
import os
import select
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class BreakableStream:
    """A stream that drops what its reader does not take any more, and calls ``then``."""

    def __init__(self, stream: Any, then: Callable[[], object]) -> None:
        self.stream, self.then = stream, then

    def write(self, text: str) -> int:
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def attempt(self, method: Callable[..., object], *args: str) -> None:
        try:
            method(*args)
        except BrokenPipeError:
            drop_output(self.stream.fileno())
            self.then()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def outlive_readers(then: Callable[[], object]) -> None:
    """Call ``then`` if standard output or error breaks, where printing would raise; until `restore_output`."""
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):  # not in a notebook
            setattr(sys, name, BreakableStream(stream, then))


def restore_output() -> None:
    """Undo `outlive_readers`."""
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), BreakableStream):
            setattr(sys, name, stream.stream)


def drop_broken_output() -> None:
    """Write standard output and error nowhere if their reader has ended."""
    for one in (sys.stdout, sys.stderr):
        with suppress(OSError):  # not a file, as in a notebook
            if has_no_reader(one.fileno()):
                drop_output(one.fileno())


def leave_terminal() -> None:
    """Write the output nowhere if it goes to a terminal: that was closed, and printing to it is an error."""
    drop_output(*(one for one in (1, 2) if stat.S_ISCHR(os.fstat(one).st_mode)))


def drop_output(*descriptors: int) -> None:
    with open(os.devnull, "w") as nowhere:
        for one in descriptors:
            os.dup2(nowhere.fileno(), one)


def has_no_reader(descriptor: int) -> bool:
    """Return whether nobody can read any more what is written to a descriptor."""
    output = select.poll()
    output.register(descriptor, 0)
    return bool(output.poll(0))
