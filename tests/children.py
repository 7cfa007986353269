"""The command line in child processes, some of which receive faults.

The children are forked from a server that has imported the package (see tests/conftest.py): a hundred children take
minutes, not a quarter of an hour. Each child has a time limit.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path

from lightning_cifar import main

CONTEXT = multiprocessing.get_context("forkserver")
LIMIT = 300  # seconds, also for a busy machine


@dataclass
class Child:
    """A running command and the file with its output."""

    process: multiprocessing.Process
    output: Path

    def wait(self) -> int:
        """Wait for the end and return the exit status, as a shell does: 128 + signal after a signal."""
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {LIMIT} s: {self.output.read_text()}")
        return self.process.exitcode if self.process.exitcode >= 0 else 128 - self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(LIMIT)


@dataclass
class Trap:
    """A signal sent to the child before, or after, call ``number`` (from 0) of ``function``."""

    function: str  # module:name, for example os:replace
    number: int = 0
    signal: int = signal.SIGTERM
    after: bool = False

    def set(self) -> None:
        module, path = self.function.split(":")
        owner = import_module(module)
        *owners, name = path.split(".")
        for attribute in owners:
            owner = getattr(owner, attribute)
        function, calls = getattr(owner, name), count()

        def trapped(*args, **kwargs):
            due = next(calls) == self.number
            if due and not self.after:
                os.kill(os.getpid(), self.signal)
            result = function(*args, **kwargs)
            if due and self.after:
                os.kill(os.getpid(), self.signal)
            return result

        setattr(owner, name, trapped)


def call_each(*functions: Callable[[], None]) -> None:
    for function in functions:
        function()


def set_environment(**values: str) -> None:
    os.environ.update(values)


def set_attributes(module: str, **values: object) -> None:
    """In the child: set names of a module."""
    for name, value in values.items():
        setattr(import_module(module), name, value)


def redirect(number: int, file: Path) -> None:
    """In the child: read standard input (0) from a file, or write standard output (1) to it."""
    os.dup2(os.open(file, os.O_WRONLY if number else os.O_RDONLY), number)
    setattr(sys, "stdout" if number else "stdin", os.fdopen(number, "w" if number else "r", closefd=False))


def run_command(args: list[str], output: Path, prepare: Callable[[], None] | None, environment: dict[str, str]) -> None:
    """Run the command line in the child and exit with its status."""
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    with output.open("w") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores SIGINT
    if prepare:
        prepare()
    status = main(args)
    sys.stdout.flush()
    os._exit(status)
