"""Runs of cifar10-airbench's and similar scripts on this package's images; used by `gpu.py` and `peers.py`."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measurement import KEPT_CHARACTERS, Measurement

from lightning_cifar import CIFAR10DataModule

SPARE_SECONDS = 8  # between a script's end and that of the measurement
COLUMNS = {"accuracy": "tta_val_acc", "accuracy_without_tta": "val_acc", "seconds": "time_seconds"}


def measure_peer(measurement: Measurement, number: int, runs: int, limit: float) -> None:
    """Run script ``number`` of ``--peers``: a first run, which compiles, and ``runs`` further ones."""
    if len(measurement.options.peers) <= number:
        measurement.report("  no script was given")
        return
    script = measurement.options.peers[number]
    data = CIFAR10DataModule(measurement.options.dataset, measurement.options.root, held_out="test")
    data.setup()
    with tempfile.TemporaryDirectory() as directory:
        write_images(data, Path(directory) / "cifar10")
        seconds = min(limit, measurement.left() - SPARE_SECONDS)
        row: dict[str, Any] = {}
        for row in run_script(script, Path(directory), runs, seconds):
            measurement.keep(script.name, row)
    if row.get("n", 0) < runs:
        measurement.keep(script.name, {**row, "error": f"ended after {row.get('n', 0)} runs:\n{row.get('output', '')}"})


def write_images(data: CIFAR10DataModule, folder: Path) -> None:
    """Write the images where the scripts expect their download."""
    folder.mkdir()
    for name, part in (("train", data.dataset.train), ("test", data.dataset.test)):
        images = part.images.permute(0, 2, 3, 1).contiguous()  # type: ignore[attr-defined]
        kept = {"images": images, "labels": part.labels, "classes": list(data.dataset.class_names)}
        torch.save(kept, folder / f"{name}.pt")


def run_script(script: Path, directory: Path, runs: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the runs so far, after each, and once more at the end; the script is killed after ``seconds``."""
    started = time.monotonic()
    ended: list[dict[str, str]] = []
    output = ""

    def keep(lines: Iterable[str]) -> Iterator[str]:
        nonlocal output
        for line in lines:
            output = (output + line)[-KEPT_CHARACTERS:]
            yield line

    with start_killable(script, directory, seconds) as process:
        assert process.stdout is not None
        for run in read_runs(keep(process.stdout)):
            ended.append({**run, "ended": f"{time.monotonic() - started:.1f}"})
            yield summarise_runs(ended)
            if len(ended) > runs:
                return
    yield {**summarise_runs(ended), "output": output}


def read_runs(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the last row of each run in a script's table, by the names of its columns.

    Its ``time_seconds`` include the final evaluation; ``training_seconds`` do not.
    """
    names: list[str] = []
    row: dict[str, str] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "tta_val_acc" in cells:
            names = cells
        elif len(cells) == len(names):
            before, row = row, dict(zip(names, cells, strict=True))
            if row["epoch"] == "eval":
                yield {**row, "training_seconds": before.get("time_seconds", "")}


@contextmanager
def start_killable(script: Path, directory: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Start a script in a process group of its own, which is killed after ``seconds`` or at the end."""
    command = [sys.executable, str(script.resolve())]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        kill = partial(kill_group, process.pid)
        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            kill()


def kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def summarise_runs(ended: list[dict[str, str]]) -> dict[str, Any]:
    """Return every value after the first run, and the printed rows of all runs."""
    counted = ended[1:]
    values = {key: [float(run[name]) for run in counted if run.get(name)] for key, name in COLUMNS.items()}
    return {"n": len(counted), **values, "runs": ended}
