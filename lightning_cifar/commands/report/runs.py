"""Runs and their tests, read from disk. Imports no torch, which takes seconds.

Missing or damaged files are skipped and listed in `SavedRun.problems`.
"""

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from lightning_cifar.errors import DivergenceError, InputError, check_range, format_count, reason
from lightning_cifar.evaluate.charts import CAPTION_LINES
from lightning_cifar.evaluate.scores import average_recalls
from lightning_cifar.evaluate.tables import describe_partial
from lightning_cifar.evaluate.test_results import (
    MISTAKES,
    RESULT,
    find_current_test,
    find_tested_run,
    find_tests,
    read_checkpoint_path,
)
from lightning_cifar.run.figures.curves import METRICS, Series, read_metrics
from lightning_cifar.run.figures.fonts import shorten
from lightning_cifar.run.figures.image_sheet import cut_sheet
from lightning_cifar.run.figures.png import encode_png
from lightning_cifar.run.records.stored_files import DAMAGED, RECORD, check_file, check_size, read_json, read_text
from lightning_cifar.run.settings.options import SIGNATURES, last_value
from lightning_cifar.run.settings.shell import format_command, format_test_command, list_trust

DIVERGED = DivergenceError.__name__  # in run.json
STARTS = ("init_from", "ckpt_path")  # options that name the weights from which training started
MAX_CONFIG = 1 << 20  # bytes
MAX_VALUES = 20_000  # in a configuration, and in a test besides those of each class
MAX_SHEET = 4096  # pixels along a side of mistakes.png


@dataclass
class SavedRun:
    """A training run and the test of its checkpoint, as far as they are there."""

    directory: Path
    name: str = "custom"  # recipe
    seed: int | None = None
    config: str = ""  # text of config.yaml
    settings: dict[str, Any] = field(default_factory=dict)  # by option: ``data.batch_size``
    command: str = ""
    trusted: str | None = None  # packages of its ``--trust_config``, which later commands on the run need too
    fit_seconds: float | None = None  # from the start of training to its end, over all resumes
    steps_per_epoch: float | None = None  # None: an earlier version, or unknown
    environment: dict[str, str] = field(default_factory=dict)
    series: Series = field(default_factory=dict)  # of `read_metrics`
    test: dict[str, Any] = field(default_factory=dict)  # test.json
    tiles: list[bytes] = field(default_factory=list)  # PNGs of the mistakes
    problems: list[str] = field(default_factory=list)  # a line each

    def read(self, file: Path, take: Callable[[Path], None]) -> None:
        """Call ``take`` with ``file``; note a missing or damaged file as a problem."""
        try:
            check_file(file)
            take(file)
        except FileNotFoundError:
            self.problems.append(f"{file} is missing")
        except (OSError, *DAMAGED) as error:
            self.problems.append(f"{file} is damaged: {type(error).__name__} {reason(error)}")

    def take_config(self, file: Path) -> None:
        text = read_text(file, MAX_CONFIG)
        stored = yaml.safe_load(text)
        check_size(stored, MAX_VALUES)
        self.settings = {f"{group}.{name}": value for group in SIGNATURES for name, value in stored[group].items()}
        self.settings |= {name: stored[name] for name in STARTS if stored.get(name)}
        self.config, self.seed = text, stored["seed_everything"]
        self.name = shorten(str(stored["recipe"] or self.name))

    def take_record(self, file: Path) -> None:
        record = read_json(file)
        self.command = shlex.join(record["command"])
        self.trusted = last_value(record["command"], "--trust_config")
        timings = record.get("timings", {})
        if seconds := timings.get("fit_seconds"):
            self.fit_seconds = float(seconds)
        if steps := timings.get("steps_per_epoch"):
            check_range("steps_per_epoch", steps, "[1, inf)")
            self.steps_per_epoch = float(steps)
        device, data = record["device"], record["data"] or {}
        if "cores" in device:
            size = f"{format_count(device['cores'], 'core')}, {format_count(device['threads'], 'thread')}"
        else:
            size = f"CUDA {device['cuda']}"
        sizes = [f"{data[part]:,} {part}" for part in ("train", "val", "test") if part in data]
        facts = {
            "started": record["started"][:16].replace("T", " ") + " UTC",
            "stopped and resumed": len(record["resumed"]) or None,
            "device": f"{device['type']}, {device['name']}, {size}",
            "precision": record["precision"],
            "commit": record["git_commit"],
            "data": ", ".join([data.get("dataset", "custom DataModule"), *sizes]),
            "image size": data.get("image_size"),
            "test split": data.get("split"),
            "data fingerprint": data.get("fingerprint"),
            **record["versions"],
        }
        self.environment = {name: str(value) for name, value in facts.items() if value is not None}
        ended = record.get("ended")
        resume = format_command("fit", "--resume", self.directory, *list_trust(self.trusted))
        if record["stage"] != "fit" or (timings and ended is None):
            return
        why = "was stopped in training" if timings else "is still being trained, or was killed"
        diverged = "diverged: its loss or weights became NaN or infinite, or the gates of a block all zero"
        self.problems.append(f"{self.directory} {diverged if ended == DIVERGED else f'{why}: {resume}'}")

    def take_series(self, file: Path) -> None:
        self.series = read_metrics(file, self.steps_per_epoch)
        if not self.series:
            raise ValueError("no values")

    def take_test(self, file: Path) -> None:
        test = read_json(file)
        for name in ("accuracy", "accuracy_without_tta", "loss", "calibration_error"):
            test[name] = float(test[name])
        for name in ("accuracy", "accuracy_without_tta"):
            check_range(name, test[name], "[0, 1]")
        check_size({name: test[name] for name in test if name not in ("confusion", "per_class")}, MAX_VALUES)
        test["per_class"] = {name: take_class(row) for name, row in test["per_class"].items()}
        classes = len(test["per_class"])
        if test["confusion"] is not None and np.shape(test["confusion"]) != (classes, classes):  # None: many classes
            raise ValueError(f"the confusion matrix is not {classes}x{classes}")
        rows = test["per_class"].values()  # older results lack the balanced accuracy
        test["balanced_accuracy"] = average_recalls([row["recall"] for row in rows], [row["images"] for row in rows])
        checkpoint, partial = read_checkpoint_path(file.parent), describe_partial(test)
        test["checkpoint"] = str(checkpoint) if checkpoint else None
        self.test = test
        if partial:
            self.problems.append(f"{file} is a partial test, of {partial}")

    def take_tiles(self, file: Path) -> None:
        count = len(self.test["mistakes"])
        with Image.open(file, formats=("PNG",)) as sheet:
            if max(sheet.size) > MAX_SHEET:
                raise ValueError(f"{sheet.width}x{sheet.height} pixels are more than {MAX_SHEET}")
            self.tiles += [encode_png(tile) for tile in cut_sheet(sheet, count, CAPTION_LINES)]

    def format_test(self, checkpoint: Path) -> str:
        """Return the command that tests a checkpoint of this run."""
        root, labels = (self.settings.get(name) for name in ("data.root", "data.labels"))
        return format_test_command(checkpoint, root, labels, self.trusted)

    def seconds(self) -> float | None:
        """Return the sum of the epochs' times, without validation; None if unknown."""
        return sum(seconds for _, seconds in self.series.get("time/epoch_seconds", [])) or None

    def images_per_second(self) -> float | None:
        """Return the mean training speed, weighted by time; None if unknown."""
        names = ("time/epoch_seconds", "time/epoch_images_per_second")
        pairs = zip(*(self.series.get(name, []) for name in names), strict=False)
        seconds = self.seconds()
        return sum(taken * speed for (_, taken), (_, speed) in pairs) / seconds if seconds else None

    def last(self, *names: str) -> float | None:
        """Return the last value of the first of these series that exists."""
        return next((self.series[name][-1][1] for name in names if name in self.series), None)


def take_class(row: dict[str, Any]) -> dict[str, Any]:
    """Return recall and test images of a class; the recall is None without images."""
    recall = row["recall"] if "recall" in row else row["accuracy"]  # its name in older results
    if recall is not None:
        check_range("recall", recall, "[0, 1]")
    return {"recall": recall, "images": int(row["images"])}


def read_runs(directories: Sequence[Path]) -> list[SavedRun]:
    """Read the runs in directories of ``fit``, ``test`` or ``repeat``; a test belongs to the run that it tested."""
    runs: dict[Path, Path] = {}  # path as named, by resolved path
    tests: dict[Path, Path] = {}
    for directory in directories:
        for part in find_runs(directory):
            run = find_tested_run(part) or part
            runs.setdefault(run.resolve(), run)
            if (part / RESULT).exists():
                tests[run.resolve()] = part
    return [read_run(run, [tests[key]] if key in tests else find_tests(run)) for key, run in runs.items()]


def find_runs(directory: Path) -> list[Path]:
    """Return the directory itself or, for ``repeat``, those of its seeds; `InputError` if it holds no run."""
    if not directory.is_dir():
        raise InputError(f"report {directory}: no such directory")
    seeds = [file.parent for file in directory.glob("seed*/config.yaml")]
    if not seeds and not any((directory / name).exists() for name in ("config.yaml", METRICS, RESULT)):
        raise InputError(f"report {directory}: not a run directory: it has no config.yaml, {METRICS} or {RESULT}")
    stage = None
    with suppress(OSError, *DAMAGED):  # `read_run` notes it
        stage = read_json(directory / RECORD)["stage"]
    if stage in ("validate", "predict"):
        raise InputError(f"report {directory}: {stage} leaves nothing to report: name a directory of fit or test")
    return sorted(seeds, key=lambda seed: (len(seed.name), seed.name)) or [directory]


def read_run(directory: Path, tests: Sequence[Path]) -> SavedRun:
    """Read a run and the first of its tests whose checkpoint has not changed since."""
    run = SavedRun(directory)
    run.read(directory / "config.yaml", run.take_config)
    run.read(directory / RECORD, run.take_record)
    if directory not in tests or (directory / "checkpoints").exists():  # a test without its run has no curves
        run.read(directory / METRICS, run.take_series)
    test = find_current_test(tests)
    if test is None:
        problem = f"{tests[0]} tested an earlier checkpoint of {directory}" if tests else f"{directory} was not tested"
        has_checkpoint = any(directory.glob("checkpoints/*.ckpt"))
        remedy = f": {run.format_test(directory)}" if has_checkpoint else ", and has no checkpoint"
        run.problems.append(problem + remedy)
        return run
    run.read(test / RESULT, run.take_test)
    if run.test and "mistakes" not in run.test:
        run.problems.append(f"{test} has no mistakes: an earlier version wrote it")
    elif run.test.get("mistakes"):
        run.read(test / MISTAKES, run.take_tiles)
    return run
