"""Training time of `fast` to the report's accuracy, compared with the report in plain PyTorch, on a CPU.

    python benchmarks/time_to_accuracy.py --root DIR [--seeds 5] [--first_seed 0] [arguments of fit]

DIR is the data directory, with CIFAR-10. ``repeat`` trains and tests the seeds; all are reported. The target is 83.5 %
without test-time augmentation. The plain implementation is the report's network as one would write it first: three
convolutions and a sum, torchvision's transforms per image, float32, Adam. Its speed is measured over a few steps before
the first seed and after each, and extrapolated to the report's 30 epochs (accuracy: ``report.json``).

Training time covers the epochs: batches, augmentation, steps, metrics, logging, progress. It excludes reading data,
start-up and the test. Prints a table and writes ``benchmarks/results/fast.json``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
from data import PerSample
from formatting import MISSING, format_percent, format_spread, format_table, keep_median, load_result, write_result
from plain import build_plain_network
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_cifar import CIFAR10DataModule
from lightning_cifar.data.dataset import ImageSet

TARGET = 0.835
EPOCHS, BATCH, STEPS = 30, 512, 4


class Plain:
    """The plain implementation; measures a few steps at a time."""

    def __init__(self, data: ImageSet) -> None:
        self.network = build_plain_network()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3, weight_decay=1e-4)
        self.loader = DataLoader(PerSample(data), BATCH, shuffle=True)

    def images_per_second(self) -> float:
        batches = iter(self.loader)
        self.step(next(batches))  # warms up
        start = time.perf_counter()
        for _ in range(STEPS):
            self.step(next(batches))
        return STEPS * BATCH / (time.perf_counter() - start)

    def step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, labels = batch
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(images), labels).backward()
        self.optimizer.step()


def run(root: str, seeds: range, extra: list[str]) -> None:
    data = CIFAR10DataModule("cifar10", root, held_out="test")
    data.setup()
    plain = Plain(data.train)
    where = Path("runs/benchmarks/fast") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    command = ["repeat", "--recipe", "fast", "--data.root", root]
    command += ["--trainer.accelerator", "cpu", *extra]  # as the plain loop
    speeds = [plain.images_per_second()]
    for seed in seeds:  # each in a new process
        one = [*command, "--n", "1", "--first_seed", str(seed), "--run_dir", str(where)]
        subprocess.run([sys.executable, "-m", "lightning_cifar", *one], check=True)
        speeds.append(plain.images_per_second())
        print(f"plain: {speeds[-1]:,.0f} images/s", flush=True)
    repeated = json.loads((where / "repeat.json").read_text())
    plain_seconds = EPOCHS * len(data.train) / statistics.median(speeds)
    seed_options = f"--seeds {len(seeds)} --first_seed {seeds.start}"
    result = repeated | {
        "question": f"How long does `fast` train to {TARGET:.1%} test accuracy, beside a plain report?",
        "command": " ".join(["python benchmarks/time_to_accuracy.py --root DIR", seed_options, *extra]),
        "data": "CIFAR-10",
        "target": TARGET,
        "plain": {
            "images_per_second": keep_median(speeds),
            "epochs": EPOCHS,
            "seconds": plain_seconds,
            "extrapolated_from": f"{STEPS} steps of {BATCH} images, {len(speeds)} times",
            "ratio": plain_seconds / repeated["train_seconds"]["median"],
        },
        "gpu": MISSING,
    }
    write_result("fast", result)
    print(tabulate_seeds("fast"), tabulate_plain(), sep="\n\n")


def tabulate_seeds(recipe: str) -> str:
    found = load_result(recipe)
    rows = [
        [
            f"seed {run['seed']}",
            format_percent(run["accuracy"]),
            format_percent(run["accuracy_without_tta"]),
            MISSING if found.get("shared") else f"{run['train_seconds']:.0f} s",
        ]
        for run in found["seeds"]
    ]
    accuracy, plain = (format_spread(found[name]) for name in ("accuracy", "accuracy_without_tta"))
    if found["n"] > 1:
        time = MISSING if found.get("shared") else f"{found['train_seconds']['median']:.0f} s"
        rows.append([f"mean ± std, median time, n = {found['n']}", accuracy, plain, time])
    head = ["", "test accuracy", "without test-time augmentation", "training time"]
    return format_table(head, rows, found["command"])


def tabulate_plain() -> str:
    found = load_result("fast")["plain"]
    speed = f"{found['images_per_second']['median']:,.0f} images/s"
    head = ["the course report, written plainly", f"{found['epochs']} epochs, extrapolated", "over `fast`"]
    return format_table(head, [[speed, f"{found['seconds']:,.0f} s", f"{found['ratio']:.0f}x"]])


TABLES = {
    "fast": partial(tabulate_seeds, "fast"),
    "fast94": partial(tabulate_seeds, "fast94"),
    "plain": tabulate_plain,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--seeds", type=int, default=5, help="the number of seeds")
    parser.add_argument("--first_seed", type=int, default=0, help="the first of them")
    known, extra = parser.parse_known_args()
    run(known.root, range(known.first_seed, known.first_seed + known.seeds), extra)
