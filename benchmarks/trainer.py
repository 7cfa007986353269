"""What does Lightning cost? The same steps by a raw loop, by ``Trainer(barebones=True)``, by the default ``fit``.

    python benchmarks/trainer.py --root DIR

DIR is an image folder of CIFAR-10. Each trains the recipe `fast` for 50 steps, in turn. Raw: batches, augmentation,
forward, loss, backward, optimiser, and nothing else. ``fit`` is the command line's, with metrics, progress, CSV, figure
and checkpoints. The clock runs from the end of the fifth step to the end of the last; what comes after that, once a run
(figure, checkpoint), is given apart. Prints one table and writes ``benchmarks/results/trainer.json``.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from step import DEVICE, build
from torch.nn import functional as F

from lightning_cifar.arguments import layered
from lightning_cifar.commands import CommandLine
from lightning_cifar.results.report import write_json
from lightning_cifar.train.memory import keep_freed_memory
from lightning_cifar.train.record import describe_device

RECIPE, STEPS, WARMUP, REPEATS = "fast", 50, 5, 5
PRECISION = "bf16-mixed"


class Clock(Callback):
    """Seconds from the end of step WARMUP to the end of the last, which is when it looks last."""

    started = ended = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if DEVICE.type == "cuda" and trainer.global_step in (WARMUP, STEPS):
            torch.cuda.synchronize()
        if trainer.global_step == WARMUP:
            self.started = time.perf_counter()
        self.ended = time.perf_counter()


class TimedCommandLine(CommandLine):
    """The command line as it is, with a clock that is asked after everything else."""

    def callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        self.clock = Clock()
        return [*super().callbacks(trainer), self.clock]


def by_fit(root: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as run_dir:
        options = ["--data.dataset", "folder", "--data.root", root, "--trainer.precision", PRECISION]
        options += ["--trainer.max_steps", str(STEPS), "--run_dir", f"{run_dir}/run"]
        done = TimedCommandLine(layered(["fit", "--recipe", RECIPE, *options]))
        return done.clock.ended - done.clock.started, time.perf_counter() - done.clock.ended


def by_barebones(root: str) -> tuple[float, float]:
    data, model = build(RECIPE, dataset="folder", root=root)
    clock = Clock()
    trainer = Trainer(barebones=True, max_steps=STEPS, precision=PRECISION, callbacks=[clock])
    trainer.fit(model, data)
    return clock.ended - clock.started, time.perf_counter() - clock.ended


def by_raw_loop(root: str) -> tuple[float, float]:
    data, model = build(RECIPE, dataset="folder", root=root)
    data.setup()
    model = model.to(DEVICE).train()
    assert model.network.stem is not None
    model.network.stem.whiten(model.normalised(data.train.sample(5000).images))
    optimizer = model.configure_optimizers()
    for step, (images, labels, *positions) in zip(range(1, STEPS + 1), data.train_dataloader(), strict=False):
        images = data.augmented(images, 0, *positions)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = F.cross_entropy(model(images), labels, label_smoothing=model.hparams["label_smoothing"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE.type == "cuda" and step in (WARMUP, STEPS):
            torch.cuda.synchronize()
        if step == WARMUP:
            started = time.perf_counter()
    return time.perf_counter() - started, 0.0


def main(root: str) -> None:
    keep_freed_memory()
    ways = {"raw loop": by_raw_loop, "barebones Trainer": by_barebones, "default fit": by_fit}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            taken[name].append(way(root))
    counted = STEPS - WARMUP
    table = {}
    for name, times in taken.items():
        ratios = [time / raw for (time, _), (raw, _) in zip(times, taken["raw loop"], strict=True)]
        table[name] = {
            "step_seconds": {
                "median": statistics.median(time for time, _ in times) / counted,
                "all": [time / counted for time, _ in times],
            },
            "ratio": {"median": statistics.median(ratios), "all": ratios},
            "end_seconds": statistics.median(end for _, end in times),
        }
    result = {
        "question": "What does Lightning cost over a raw loop of the same steps?",
        "command": "python benchmarks/trainer.py --root DIR",
        "recipe": RECIPE,
        "steps": counted,
        "ways": table,
        "device": describe_device(DEVICE),
    }
    write_json(Path(__file__).parent / "results/trainer.json", result)
    print(f"{'':<20}{'a step':>10}{'ratio':>8}{'after the last':>18}")
    for name, row in table.items():
        step, ratio = 1000 * row["step_seconds"]["median"], row["ratio"]["median"]
        print(f"{name:<20}{step:>7.1f} ms{ratio:>8.3f}{row['end_seconds']:>16.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the image folder")
    main(parser.parse_args().root)
