"""What the tests of faults share: children that end with their test, and a note of what was survived."""

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest
from harm import CONTEXT, LIMIT, Child, command


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def begin(*args: object, prepare: Callable[[], None] | None = None) -> Child:
        output = tmp_path / f"output{len(children)}"
        environment = {name: os.environ[name] for name in ("XDG_CACHE_HOME", "HOME", "MPLCONFIGDIR", "WANDB_BASE_URL")}
        process = CONTEXT.Process(target=command, args=([*map(str, args)], output, prepare, environment))
        process.start()
        children.append(Child(process, output))
        return children[-1]

    yield begin
    for child in children:
        if child.process.is_alive():
            child.process.kill()
        child.process.join()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool], Child], None]:
    def wait(condition: Callable[[], bool], child: Child) -> None:
        limit = time.monotonic() + LIMIT
        while not condition():
            assert child.process.is_alive(), child.output.read_text()
            assert time.monotonic() < limit
            time.sleep(0.002)

    return wait


REPORT = os.environ.get("FAULT_REPORT")  # where to add a line for each fault that was tried


@pytest.fixture
def survived() -> Callable[..., None]:
    """Notes that a fault was tried and did no harm; for docs/reliability.md."""

    def note(fault: str, times: int = 1, **what: float) -> None:
        if REPORT:
            with open(REPORT, "a") as opened:
                opened.write(json.dumps({"fault": fault, "times": times, **what}) + "\n")

    return note
