"""Children to harm: the command line in a process of its own that starts at once, and what became of it.

They are forked from a server that has imported everything (see tests/conftest.py), so that a hundred of them take
minutes and not a quarter of an hour. Each has a time limit.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path

from lightning_cifar import main

CONTEXT = multiprocessing.get_context("forkserver")
LIMIT = 120  # seconds


@dataclass
class Child:
    """A running command."""

    process: multiprocessing.Process
    output: Path

    def wait(self) -> int:
        """Its exit status, as a shell would give it."""
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {LIMIT} s: {self.output.read_text()}")
        return self.process.exitcode if self.process.exitcode >= 0 else 128 - self.process.exitcode

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(LIMIT)


@dataclass
class Trap:
    """Sends the child a signal when it calls ``function`` for the n-th time, from 0: before the call or after it."""

    function: str  # as lightning_cifar.files:os.replace
    number: int = 0
    signal: int = signal.SIGTERM
    after: bool = False

    def set(self) -> None:
        module, path = self.function.split(":")
        owner = import_module(module)
        *parts, name = path.split(".")
        for part in parts:
            owner = getattr(owner, part)
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


def command(args: list[str], output: Path, prepare: Callable[[], None] | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    with output.open("w") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    if prepare:
        prepare()
    status = main(args)
    sys.stdout.flush()
    os._exit(status)
