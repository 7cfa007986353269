"""Fixtures of the fault tests: child processes that are killed after the test, and a report of survived faults."""

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest
from harm import CONTEXT, LIMIT, Child, run_command


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Child]]:
    """Return a function that starts the command line in a child process."""
    children: list[Child] = []

    def start_child(*args: object, prepare: Callable[[], None] | None = None) -> Child:
        output = tmp_path / f"output{len(children)}"
        environment = {name: os.environ[name] for name in ("XDG_CACHE_HOME", "HOME", "MPLCONFIGDIR", "WANDB_BASE_URL")}
        process = CONTEXT.Process(target=run_command, args=([*map(str, args)], output, prepare, environment))
        process.start()
        children.append(Child(process, output))
        return children[-1]

    yield start_child
    for child in children:
        if child.process.is_alive():
            child.process.kill()
        child.process.join()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool], Child], None]:
    """Return a function that waits until a condition holds while the child runs."""

    def wait(condition: Callable[[], bool], child: Child) -> None:
        limit = time.monotonic() + LIMIT
        while not condition():
            assert child.process.is_alive(), child.output.read_text()
            assert time.monotonic() < limit
            time.sleep(0.002)

    return wait


REPORT = os.environ.get("FAULT_REPORT")  # file to append a line to for each injected fault


@pytest.fixture
def record_survival() -> Callable[..., None]:
    """Return a function that reports a survived fault, for docs/reliability.md."""

    def record(fault: str, times: int = 1, **measured: float) -> None:
        if REPORT:
            with open(REPORT, "a") as opened:
                opened.write(json.dumps({"fault": fault, "times": times, **measured}) + "\n")

    return record
