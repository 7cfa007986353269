"""Training time to 83.5 % test accuracy: the recipe `fast`, seed by seed, against a plain PyTorch report.

    python benchmarks/time_to_accuracy.py --root DIR

DIR is an image folder of CIFAR-10. Every seed is trained by ``fit --recipe fast`` and tested once by ``test``; all are
reported. The plain implementation is the report's network as one would write it first: three convolutions and a sum,
torchvision's transforms image by image, float32, Adam, a loop of its own. Its speed is measured over a few steps before
the first seed and after each, and multiplied by the report's 30 epochs (whose accuracy is in ``report.json``).

Training time is the sum of the epochs' times: batches, augmentation, steps, metrics, logging, progress. Reading data,
start-up and the test are not in it; the wall time of the whole of ``fit`` is given beside it. Prints one table and
writes ``benchmarks/results/time_to_accuracy.json``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import torch
from data import PerSample
from report import read_epochs
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_cifar import CIFAR10DataModule
from lightning_cifar.data.sources import ImageSet
from lightning_cifar.results.report import write_json
from lightning_cifar.train.record import describe_device

RESULTS = Path(__file__).parent / "results"
TARGET, EPOCHS, BATCH, STEPS = 0.835, 30, 512, 4
WIDTHS = (32, 64, 128, 256, 256)


class PlainBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, 3)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(inputs, outputs, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.gate(x.mean((2, 3))))[:, :, None, None, None]
        y = a[:, 0] * F.relu(self.conv1(x)) + a[:, 1] * F.relu(self.conv2(x)) + a[:, 2] * F.relu(self.conv3(x))
        return F.max_pool2d(self.norm(y), 2)


class Plain:
    """The plain implementation, a few steps at a time."""

    def __init__(self, data: ImageSet) -> None:
        blocks = [PlainBlock(*pair) for pair in zip((3, *WIDTHS), WIDTHS, strict=False)]
        mlp = [nn.Flatten(), nn.Linear(WIDTHS[-1], 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)]
        self.network = nn.Sequential(*blocks, *mlp)
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


def train_fast(root: str, seed: int, extra: list[str], where: Path) -> dict[str, float]:
    """One seed by the command line, in a process of its own."""
    run_dir = where / str(seed)
    data = ["--data.dataset", "folder", "--data.root", root]
    started = time.perf_counter()
    command("fit", "--recipe", "fast", *data, *extra, "--seed_everything", str(seed), "--run_dir", str(run_dir))
    wall = time.perf_counter() - started
    command("test", "--ckpt_path", str(run_dir / "checkpoints/last.ckpt"), "--run_dir", str(run_dir / "test"))
    tested = json.loads((run_dir / "test/test.json").read_text())
    return {
        "seed": seed,
        "accuracy": tested["accuracy"],
        "accuracy_without_tta": tested["accuracy_without_tta"],
        "train_seconds": sum(epoch["time/epoch_seconds"] for epoch in read_epochs(run_dir / "metrics.csv")),
        "fit_wall_seconds": wall,
    }


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "lightning_cifar", *arguments], check=True)


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values), "median": statistics.median(values)}


def run(root: str, data_name: str, seeds: int, extra: list[str]) -> None:
    data = CIFAR10DataModule("folder", root, held_out="test")
    data.setup()
    plain = Plain(data.train)
    where = Path("runs/benchmarks/time_to_accuracy") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    speeds, runs = [plain.images_per_second()], []
    for seed in range(seeds):
        runs.append(train_fast(root, seed, extra, where))
        speeds.append(plain.images_per_second())
        print(runs[-1], f"plain: {speeds[-1]:,.0f} images/s", flush=True)
    names = ("accuracy", "accuracy_without_tta", "train_seconds", "fit_wall_seconds")
    means = {name: summary([run[name] for run in runs]) for name in names}
    plain_seconds = EPOCHS * len(data.train) / statistics.median(speeds)
    result = {
        "question": f"How long does `fast` train to {TARGET:.1%} test accuracy, beside a plain report?",
        "command": " ".join(["python benchmarks/time_to_accuracy.py --root DIR", *extra]),
        "data": data_name,
        "target": TARGET,
        "fast": {"n": seeds, **means, "runs": runs},
        "plain": {
            "images_per_second": {"median": statistics.median(speeds), "all": speeds},
            "epochs": EPOCHS,
            "seconds": plain_seconds,
            "extrapolated_from": f"{STEPS} steps of {BATCH} images, {len(speeds)} times",
        },
        "ratio": plain_seconds / means["train_seconds"]["mean"],
        "device": describe_device(torch.device("cpu")),
        "gpu": "not measured",
    }
    write_json(RESULTS / "time_to_accuracy.json", result)
    print(f"{'':<28} {'accuracy':>9} {'training':>10}")
    for run_ in runs:
        print(f"{'fast, seed ' + str(run_['seed']):<28} {run_['accuracy']:>9.2%} {run_['train_seconds']:>8.0f} s")
    print(f"{'fast, mean':<28} {means['accuracy']['mean']:>9.2%} {means['train_seconds']['mean']:>8.0f} s")
    print(f"{'plain report, extrapolated':<28} {'':>9} {plain_seconds:>8,.0f} s = {result['ratio']:.0f} times")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the image folder")
    parser.add_argument("--data_name", default="CIFAR-10 (JPEG)", help="what the tables call it")
    parser.add_argument("--seeds", type=int, default=5, help="0 ... seeds - 1")
    known, extra = parser.parse_known_args()
    run(known.root, known.data_name, known.seeds, extra)
