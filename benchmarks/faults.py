"""Number of times that each fault of ``tests/fault`` was injected and survived.

    python benchmarks/faults.py

Runs the whole fault suite and writes ``benchmarks/results/faults.json``. If a test fails, nothing is written.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from formatting import format_table, load_result, print_tables, write_result

from lightning_cifar.run.records.run_json import find_commit, find_cpu_name

ROOT = Path(__file__).parents[1]


def main() -> None:
    with tempfile.NamedTemporaryFile("r") as report:
        command = [sys.executable, "-m", "pytest", "-m", "fault", "-n", "2", "-q", "tests"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "FAULT_REPORT": report.name}, check=True)
        notes = [json.loads(line) for line in report]
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"times": 0})
    for note in notes:
        row = found[note.pop("fault")]
        row["times"] += note.pop("times")
        for name, value in note.items():
            row[name] = max(row.get(name, 0), value)
    result = {
        "command": "python benchmarks/faults.py",
        "date": datetime.date.today().isoformat(),
        "git_commit": find_commit(),
        "cpu": find_cpu_name(),
        "faults": dict(sorted(found.items())),
    }
    write_result("faults", result)
    print_tables(TABLES)


def tabulate() -> str:
    """Format each fault and its count; each signal is one row with the moments it was sent at."""
    result, rows, moments = load_result("faults"), [], {}
    for fault, found in result["faults"].items():
        lost = found.get("lost_steps")
        cells = [f"{found['times']:,}", {None: "", 0: "nothing", 1: "1 step at most"}[lost]]
        signal, _, moment = fault.partition(" in ")
        if signal in ("SIGINT", "SIGTERM"):
            moments.setdefault((signal, *cells), []).append(moment)
        else:
            rows.append([fault, *cells])
    ended = [
        [f"{signal} in: {'; '.join(when)}", f"{times} each", lost] for (signal, times, lost), when in moments.items()
    ]
    return format_table(["fault", "times", "lost"], ended + rows, result["command"])


TABLES = {
    "faults": tabulate,
}


if __name__ == "__main__":
    main()
