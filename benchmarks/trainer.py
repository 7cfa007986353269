"""Overhead of Lightning: the same steps by a raw loop, ``Trainer(barebones=True)`` and the default ``fit``.

    python benchmarks/trainer.py --root DIR [--only steps | epoch_end]

DIR is the data directory. Each trains the recipe `fast` for 50 steps, interleaved, 5 times. The raw loop does
batches, augmentation, forward, loss, backward and optimiser only; ``fit`` adds metrics, progress, CSV, figure and
checkpoints. The clock runs from the end of step 5 to the end of the last; what follows once per run (figure,
checkpoint) is reported separately. The same is measured with batches of 10 images and five blocks of 8 channels, where
the overhead shows.

``epoch_end`` times what `PARTS` do at the end of an epoch, in an epoch that saves no checkpoint: the median over
`EPOCHS` short epochs of the recipe `fast94`. The device is synchronised before and after each part.

Prints both tables and updates ``benchmarks/results/trainer.json``; ``--only`` measures one of them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from formatting import RESULTS, format_table, keep_median, load_result, print_tables, write_result
from lightning import Callback, Trainer
from torch.nn import functional as F
from training_step import DEVICE, build, wait

from lightning_cifar import CIFAR10DataModule, ImageClassifier
from lightning_cifar.commands.fit import fit
from lightning_cifar.run.checkpoints.last_checkpoint import LastCheckpoint
from lightning_cifar.run.console.progress import Progress
from lightning_cifar.run.guards import FiniteLoss, GateStatistics
from lightning_cifar.run.job import parse
from lightning_cifar.run.process.hardware import find_processor_precision, keep_freed_memory
from lightning_cifar.run.records.run_json import describe_device
from lightning_cifar.run.records.throughput import Throughput
from lightning_cifar.run.settings.precedence import layer
from lightning_cifar.train.whitening import whiten_stems

RECIPE, WARMUP, REPEATS = "fast", 5, 5
STEPS = {"fast": 50, "tiny": 300}
TINY = ({"batch_size": 10}, {"widths": [8] * 5})
PRECISION = "bf16-mixed" if DEVICE.type == "cuda" else find_processor_precision() or "32-true"
EPOCH_END_RECIPE, EPOCHS = "fast94", 12
PARTS = {  # what our callbacks do at the end of an epoch
    "throughput": (Throughput, ("on_train_epoch_end",)),
    "gates: forward pass of 256 images": (GateStatistics, ("sample_gates",)),
    "gates: statistics, logged": (GateStatistics, ("on_train_epoch_end",)),
    "check of the weights": (FiniteLoss, ("on_train_epoch_end",)),
    "row of the progress table": (Progress, ("on_train_epoch_end",)),
    "whether to write last.ckpt": (LastCheckpoint, ("after_epoch",)),
}


class Clock(Callback):
    """Callback that takes the time at the end of step WARMUP and of the last step."""

    def __init__(self, steps: int) -> None:
        self.steps, self.started, self.ended = steps, 0.0, 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step in (WARMUP, self.steps):
            wait()
        if trainer.global_step == WARMUP:
            self.started = time.perf_counter()
        self.ended = time.perf_counter()


def build_parts(root: str, size: str) -> tuple[CIFAR10DataModule, ImageClassifier]:
    data, model = TINY if size == "tiny" else ({}, {})
    return build(RECIPE, {"root": root, **data}, model)


def run_fit(root: str, size: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as run_dir:
        options = ["--data.root", root, "--trainer.precision", PRECISION]
        options += ["--trainer.max_steps", str(STEPS[size]), "--run_dir", f"{run_dir}/run"]
        if size == "tiny":
            for group, values in zip(("data", "model"), TINY, strict=True):
                options += [f"--{group}.{name}={value}" for name, value in values.items()]
        clock = Clock(STEPS[size])  # a further callback is called last
        fit(parse(layer(["fit", "--recipe", RECIPE, *options])), [clock])
        return clock.ended - clock.started, time.perf_counter() - clock.ended


def run_barebones(root: str, size: str) -> tuple[float, float]:
    data, model = build_parts(root, size)
    clock = Clock(STEPS[size])
    trainer = Trainer(barebones=True, max_steps=STEPS[size], precision=PRECISION, callbacks=[clock])
    trainer.fit(model, data)
    return clock.ended - clock.started, time.perf_counter() - clock.ended


def run_raw_loop(root: str, size: str) -> tuple[float, float]:
    data, model = build_parts(root, size)
    data.setup()
    whiten_stems(model.five_block_nets, data.train, model.normalise)
    model = model.to(DEVICE).train()
    optimizer = model.configure_optimizers()
    loader = data.train_dataloader()
    loader.positions, data.draws, data.fill = True, data.draws.to(DEVICE), data.fill.to(DEVICE)
    for step, batch in zip(range(1, STEPS[size] + 1), loader, strict=False):
        images, labels, positions = (tensor.to(DEVICE) for tensor in batch)
        images = data.augment_batch(images, positions)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=PRECISION == "bf16-mixed"):
            loss = F.cross_entropy(model(images), labels, label_smoothing=model.hparams["label_smoothing"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (WARMUP, STEPS[size]):
            wait()
        if step == WARMUP:
            started = time.perf_counter()
    return time.perf_counter() - started, 0.0


def measure(root: str, size: str) -> dict[str, Any]:
    ways = {"raw loop": run_raw_loop, "barebones Trainer": run_barebones, "default fit": run_fit}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            taken[name].append(way(root, size))
    counted = STEPS[size] - WARMUP
    table = {}
    for name, times in taken.items():
        ratios = [time / raw for (time, _), (raw, _) in zip(times, taken["raw loop"], strict=True)]
        table[name] = {
            "step_seconds": keep_median([time / counted for time, _ in times]),
            "ratio": keep_median(ratios),
            "end_seconds": statistics.median(end for _, end in times),
        }
    return table


def measure_epoch_end(root: str) -> dict[str, Any]:
    """Return milliseconds of each of `PARTS`, without parts within it: the median over epochs of two steps, and all."""
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    within = [0.0]  # milliseconds of parts within the current one

    def clock(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            wait()
            within.append(0)
            start = time.perf_counter()
            result = method(*args)
            wait()
            spent = 1000 * (time.perf_counter() - start)
            taken[part].append(spent - within.pop())
            within[-1] += spent
            return result

        return timed

    options = ["--data.root", root, "--trainer.precision", PRECISION]
    options += ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", str(EPOCHS)]
    with tempfile.TemporaryDirectory() as run_dir, ExitStack() as patches:
        for part, (owner, names) in PARTS.items():
            for name in names:
                patches.enter_context(patch.object(owner, name, clock(part, getattr(owner, name))))
        fit(parse(layer(["fit", "--recipe", EPOCH_END_RECIPE, *options, "--run_dir", f"{run_dir}/run"])))
    return {part: keep_median(times) for part, times in taken.items()}


def measure_steps(root: str) -> dict[str, Any]:
    sizes = {size: measure(root, size) for size in STEPS}
    tiny = {name: row["step_seconds"]["median"] for name, row in sizes["tiny"].items()}
    added = {name: step - tiny["raw loop"] for name, step in tiny.items()}
    step = sizes["fast"]["raw loop"]["step_seconds"]["median"]
    return {
        "recipe": RECIPE,
        "sizes": sizes,
        "added_seconds_per_step": added,
        "ratio_from_added": {name: 1 + seconds / step for name, seconds in added.items()},
        "precision": PRECISION,
        "device": describe_device(DEVICE),
    }


def main(root: str, only: str | None) -> None:
    keep_freed_memory()
    result = load_result("trainer") if (RESULTS / "trainer.json").exists() else {}
    result |= {
        "question": "What does Lightning cost over a raw loop of the same steps, and our callbacks per epoch?",
        "command": "python benchmarks/trainer.py --root DIR",
    }
    if only != "epoch_end":
        result |= measure_steps(root)
    if only != "steps":
        found = measure_epoch_end(root)
        result["epoch_end"] = {
            "recipe": EPOCH_END_RECIPE, "milliseconds": found, "device": describe_device(DEVICE)
        }  # fmt: skip
    write_result("trainer", result)
    print_tables(TABLES)


def tabulate() -> str:
    result, rows = load_result("trainer"), []
    for way, found in result["sizes"]["fast"].items():
        added, ratio = result["added_seconds_per_step"][way], result["ratio_from_added"][way]
        measured = f"{1000 * found['step_seconds']['median']:.0f} ms"
        rows.append([way, measured, f"{found['ratio']['median']:.3f}", f"{1000 * added:.1f} ms", f"{ratio:.3f}"])
    head = [f"`{result['recipe']}`", "a step", "median of pairs", "added to a tiny step", "that over the raw step"]
    return format_table(head, rows, result["command"])


def tabulate_epoch_end() -> str:
    result = load_result("trainer")
    found = result["epoch_end"]
    medians = {part: times["median"] for part, times in found["milliseconds"].items()}
    rows = [[part, f"{time:.1f} ms"] for part, time in [*medians.items(), ("sum", sum(medians.values()))]]
    return format_table([f"end of an epoch of `{found['recipe']}`", ""], rows, f"{result['command']} --only epoch_end")


TABLES = {
    "trainer": tabulate,
    "epoch_end": tabulate_epoch_end,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--only", choices=["steps", "epoch_end"], help="measure one of the two tables; default: both")
    arguments = parser.parse_args()
    main(arguments.root, arguments.only)
