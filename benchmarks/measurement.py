"""A measurement within a number of seconds: stages of rows, on disk after every row; used by `gpu.py`."""

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_cifar.files import write_json

KEPT_CHARACTERS = 2000  # of a traceback or of a command's output
STARTUP_SECONDS = 20


class DeviceLostError(Exception):
    """After some errors no further operation succeeds on the device in this process."""


class Stage(NamedTuple):
    """A stage: what it measures, the seconds it may need, and those after which it hangs."""

    name: str
    measure: Callable[["Measurement"], None]
    needed: float
    limit: float


class Measurement:
    """Rows of all stages, kept in a JSON file that is written after every row, and the seconds that are left.

    Args:
        file: its rows of other stages on the same device and data are kept.
        seconds: from now on.
        header: entries of the file beside ``stages``.
        options: of the command line.
        restart: called with the names of stages, to measure them in a new process.
    """

    def __init__(
        self,
        file: Path,
        seconds: float,
        header: dict[str, Any],
        options: Any,
        restart: Callable[[list[str], float], None],
    ) -> None:
        self.file, self.options, self.restart = file, options, restart
        self.started = time.monotonic()
        self.seconds = seconds
        self.header = header
        kept = json.loads(file.read_text()) if file.exists() else {}
        is_same = all(kept.get(name) == header[name] for name in ("data", "device", "torch"))
        self.result: dict[str, Any] = {**header, "stages": kept["stages"] if is_same else {}}
        self.stage: dict[str, Any] = {}
        self.warm = False  # whether a fit has run in this process

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def report(self, *words: object) -> None:
        print(f"[{time.monotonic() - self.started:6.1f} s]", *words, flush=True)

    def run(self, stages: list[Stage]) -> None:
        """Run stages in order, each if enough seconds are left."""
        for number, stage in enumerate(stages):
            if self.left() < stage.needed:
                self.report(f"{stage.name}: skipped, {self.left():.0f} s are left of {stage.needed:.0f} s it may need")
                continue
            rest = [later.name for later in stages[number + 1 :]]
            watchdog = threading.Timer(min(stage.limit, self.left()), self.leave, [stage, rest])
            watchdog.daemon = True
            watchdog.start()
            try:
                self.run_stage(stage)
            except DeviceLostError:
                self.report(f"{stage.name}: the device is lost, starting a new process")
                self.restart(rest, self.left())
            finally:
                watchdog.cancel()

    def run_stage(self, stage: Stage) -> None:
        self.stage = self.result["stages"][stage.name] = {"git_commit": self.header["git_commit"], "rows": {}}
        self.report(stage.name)
        started = time.monotonic()
        try:
            stage.measure(self)
        except Exception as error:
            self.stage["error"] = describe_error()
            self.report(f"{stage.name}: FAILED\n{self.stage['error']}")
            if isinstance(error, DeviceLostError) or not device_works():
                raise DeviceLostError from error
        finally:
            self.stage["seconds"] = round(time.monotonic() - started, 1)
            write_json(self.file, self.result)

    def leave(self, stage: Stage, rest: list[str]) -> None:
        """Leave a stage that hangs, with the process it hangs in."""
        self.stage["error"] = "ended by the clock"
        self.report(f"{stage.name}: {self.stage['error']}")
        write_json(self.file, self.result)
        self.restart(rest, self.left())

    def attempt(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Keep and return the row that ``measure`` returns, or its error."""
        try:
            row = measure()
        except Exception as error:
            row = {"error": describe_error()}
            self.keep(name, row)
            if not device_works():
                raise DeviceLostError from error
        else:
            self.keep(name, row)
        release_memory()
        return row

    def keep(self, name: str, row: dict[str, Any]) -> None:
        self.stage["rows"][name] = row
        write_json(self.file, self.result)
        if "error" in row:
            self.report(f"  {name}: FAILED\n{row['error']}")
        else:
            self.report(f"  {name}:", ", ".join(map(": ".join, list_values(row))))


def list_values(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the short values of a row as text."""
    found = []
    for name, value in row.items():
        if isinstance(value, dict) and "median" in value:
            value = value["median"]
        if isinstance(value, float):
            found.append((name, f"{value:.4g}"))
        elif isinstance(value, int | str) and name != "command":
            found.append((name, str(value)))
    return found


def describe_error() -> str:
    return traceback.format_exc()[-KEPT_CHARACTERS:]


def device_works() -> bool:
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def restart(stages: list[str], seconds: float) -> None:
    """Replace this process by one that measures ``stages`` in what is left of the time, or end it."""
    sys.stdout.flush()
    if not stages or seconds < STARTUP_SECONDS:
        os._exit(0)
    words = [*sys.argv, "--seconds", str(seconds), "--stages", *stages]
    os.execv(sys.executable, [sys.executable, *words])
