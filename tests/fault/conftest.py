"""A report of survived faults."""

import json
import os
from collections.abc import Callable

import pytest

REPORT = os.environ.get("FAULT_REPORT")  # file to append a line to for each injected fault


@pytest.fixture
def record_survival() -> Callable[..., None]:
    """Return a function that reports a survived fault, for docs/faults.md."""

    def record(fault: str, times: int = 1, **measured: float) -> None:
        if REPORT:
            with open(REPORT, "a") as opened:
                opened.write(json.dumps({"fault": fault, "times": times, **measured}) + "\n")

    return record
