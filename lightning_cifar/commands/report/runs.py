"""What runs left on disk, for a report of them. Needs no torch, which takes seconds.

What is missing or damaged is left out, and said: `LeftRun.problems`.
"""

import io
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from lightning_cifar.errors import InputError, reason
from lightning_cifar.evaluate.charts import SHEET
from lightning_cifar.evaluate.test_results import DAMAGED, outdated, run_tested_in, tested_in, tests_of
from lightning_cifar.options import SIGNATURES
from lightning_cifar.run.curves import METRICS, Series, read_metrics


@dataclass
class LeftRun:
    """A training run and the test of its checkpoint; of either, what there is."""

    directory: Path
    name: str = "custom"  # of its recipe
    seed: int | None = None
    config: str = ""  # as text
    settings: dict[str, Any] = field(default_factory=dict)  # by option, as ``data.batch_size``
    command: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    series: Series = field(default_factory=dict)  # as of `read_metrics`
    test: dict[str, Any] = field(default_factory=dict)  # test.json
    tiles: list[bytes] = field(default_factory=list)  # of its mistakes, each a PNG
    problems: list[str] = field(default_factory=list)  # a line each

    def read(self, file: Path, take: Callable[[Path], None]) -> None:
        try:
            take(file)
        except FileNotFoundError:
            self.problems.append(f"{file} is not there")
        except (OSError, *DAMAGED) as error:
            self.problems.append(f"{file} is damaged: {type(error).__name__} {reason(error)}")

    def take_config(self, file: Path) -> None:
        text = file.read_text()
        stored = yaml.safe_load(text)
        self.settings = {f"{group}.{name}": value for group in SIGNATURES for name, value in stored[group].items()}
        self.config, self.seed, self.name = text, stored["seed_everything"], stored["recipe"] or self.name

    def take_record(self, file: Path) -> None:
        record = json.loads(file.read_text())
        self.command = shlex.join(record["command"])
        device, data = record["device"], record["data"] or {}
        size = (
            f"{device['cores']} cores, {device['threads']} threads" if "cores" in device else f"CUDA {device['cuda']}"
        )
        sizes = [f"{data[part]:,} {part}" for part in ("train", "val", "test") if part in data]
        found = {
            "started": record["started"][:16].replace("T", " ") + " UTC",
            "stopped and resumed": len(record["resumed"]) or None,
            "device": f"{device['type']}, {device['name']}, {size}",
            "precision": record["precision"],
            "commit": record["git_commit"],
            "data": ", ".join([data.get("dataset", "not a CIFAR10DataModule"), *sizes]),
            "data fingerprint": data.get("fingerprint"),
            **record["versions"],
        }
        self.environment = {name: str(value) for name, value in found.items() if value is not None}

    def take_series(self, file: Path) -> None:
        self.series = read_metrics(file)
        if not self.series:
            raise ValueError("it holds no numbers")

    def take_test(self, file: Path) -> None:
        test = json.loads(file.read_text())
        for name in ("accuracy", "accuracy_without_tta", "loss", "calibration_error"):
            test[name] = float(test[name])
        classes = len(test["per_class"].keys())
        if np.shape(test["confusion"]) != (classes, classes):
            raise ValueError(f"its confusions are not those of {classes} classes")
        if checkpoint := tested_in(file.parent):
            test["checkpoint"] = str(checkpoint)
        self.test = test

    def take_tiles(self, file: Path) -> None:
        count = len(self.test["mistakes"])
        with Image.open(file, formats=("PNG",)) as sheet:
            size = sheet.width // min(SHEET, count)
            if sheet.height != size * -(-count // SHEET):
                raise ValueError(f"{sheet.width}x{sheet.height} pixels, for {count} images")
            for place in range(count):
                left, top = place % SHEET * size, place // SHEET * size
                tile = io.BytesIO()
                sheet.crop((left, top, left + size, top + size)).save(tile, "PNG")
                self.tiles.append(tile.getvalue())

    def seconds(self) -> float | None:
        """Of training, without validation."""
        return sum(seconds for _, seconds in self.series.get("time/epoch_seconds", [])) or None

    def images_per_second(self) -> float | None:
        names = ("time/epoch_seconds", "time/epoch_images_per_second")
        pairs = zip(*(self.series.get(name, []) for name in names), strict=False)
        seconds = self.seconds()
        return sum(taken * speed for (_, taken), (_, speed) in pairs) / seconds if seconds else None

    def last(self, *names: str) -> float | None:
        """The last value of the first of these series that there is."""
        return next((self.series[name][-1][1] for name in names if name in self.series), None)


def read_runs(directories: Sequence[Path]) -> list[LeftRun]:
    """The runs in these directories, of ``fit``, ``test`` or ``repeat``; a test belongs to the run it tested.

    Raises:
        InputError: one is no such directory.
    """
    runs: dict[Path, Path] = {}  # as named, by where they are
    tests: dict[Path, Path] = {}
    for directory in directories:
        for part in parts(directory):
            run = run_tested_in(part) or part
            runs.setdefault(run.resolve(), run)
            if (part / "test.json").exists():
                tests[run.resolve()] = part
    return [read_run(run, [tests[place]] if place in tests else tests_of(run)) for place, run in runs.items()]


def parts(directory: Path) -> list[Path]:
    """A run's directory; of ``repeat``, those of its seeds."""
    if not directory.is_dir():
        raise InputError(f"report {directory}: no such directory")
    seeds = [file.parent for file in directory.glob("seed*/config.yaml")]
    if not seeds and not any((directory / name).exists() for name in ("config.yaml", METRICS, "test.json")):
        raise InputError(
            f"report {directory}: no run's directory: there is no config.yaml, {METRICS} or test.json in it"
        )
    return sorted(seeds, key=lambda seed: (len(seed.name), seed.name)) or [directory]


def read_run(directory: Path, tests: Sequence[Path]) -> LeftRun:
    """A run, and of its tests the first that is of a checkpoint as it is."""
    run = LeftRun(directory)
    run.read(directory / "config.yaml", run.take_config)
    run.read(directory / "run.json", run.take_record)
    if directory not in tests or (directory / "checkpoints").exists():  # else a test alone, which has no curves
        run.read(directory / METRICS, run.take_series)
    test = next((test for test in tests if not outdated(test)), None)
    if test is None:
        checkpoint = directory / "checkpoints/last.ckpt"
        found = f"{tests[0]} is of an earlier state of {directory}" if tests else f"{directory} was not tested"
        run.problems.append(f"{found}: python -m lightning_cifar test --ckpt_path {checkpoint}")
        return run
    run.read(test / "test.json", run.take_test)
    if run.test and "mistakes" not in run.test:
        run.problems.append(f"{test} has no mistakes: an earlier version tested there")
    elif run.test.get("mistakes"):
        run.read(test / "mistakes.png", run.take_tiles)
    return run
