"""Weights, accuracy and throughput of one process compared with two and three processes by DDP on a CPU.

    python benchmarks/distributed.py --root DIR

DIR is the data directory. Weights after 20 steps, n = 1; throughput is the median of 3 interleaved runs.
Writes ``benchmarks/results/distributed.json``.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from formatting import MISSING, format_table, load_result, print_tables, write_result

from lightning_cifar.run.records.run_json import find_commit, find_cpu_name
from lightning_cifar.train.checkpoint import load_checkpoint

STEPS, ROUNDS = 20, 3


def run(*args: object, threads: int) -> None:
    command = [sys.executable, "-m", "lightning_cifar", *map(str, args), "--trainer.accelerator", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def by(count: int) -> list[object]:
    return ["--trainer.devices", count, "--trainer.strategy", "ddp"] if count > 1 else ["--trainer.devices", 1]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return relative differences (Euclidean norm) of all weights and of the worst tensor."""
    names = [name for name, value in one.items() if value.is_floating_point() and "running" not in name]
    a, b = (torch.cat([state[name].double().flatten() for name in names]) for state in (one, other))
    each = {name: float((one[name] - other[name]).norm() / one[name].norm()) for name in names if one[name].norm() > 0}
    worst = max(each, key=lambda name: each[name])
    return {"all": float((a - b).norm() / a.norm()), "worst": each[worst], "worst_tensor": worst}  # type: ignore[dict-item]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]
    return found


def compare_weights(folder: Path, data: list[object]) -> dict[str, Any]:
    found = {}
    for recipe, options in (("report", ["--data.batch_size", 500]), ("fast", []), ("fast94", [])):
        args = ["fit", "--recipe", recipe, *data, *options, "--trainer.precision", "32-true", "--trainer.max_steps"]
        args += [STEPS, "--trainer.max_epochs", 1, "--trainer.limit_val_batches", 0, "--run_dir"]
        for count in (1, 2):
            run(*args, folder / f"{recipe}{count}", *by(count), threads=1)
        # Rounding only: the same training by one process, summing in another order.
        run(*args, folder / f"{recipe}threads", *by(1), threads=2)
        # float64 shows what is not rounding.
        for count in (1, 2):
            run(*args, folder / f"{recipe}64{count}", *by(count), "--trainer.precision", "64-true", threads=1)
        states = {name: weights(folder / f"{recipe}{name}") for name in ("1", "2", "threads", "641", "642")}
        found[recipe] = {
            "two_processes": distance(states["1"], states["2"]),
            "two_threads": distance(states["1"], states["threads"]),
            "two_processes_float64": distance(states["641"], states["642"]),
        }
    return found


def count_correct(folder: Path) -> dict[str, float]:
    """Count correct test images with one, two and three processes."""
    found = {}
    for count in (1, 2, 3):
        run_dir = folder / f"test{count}"
        checkpoint = folder / "fast1/checkpoints/last.ckpt"
        run("test", "--ckpt_path", checkpoint, "--run_dir", run_dir, *by(count), threads=1)
        result = json.loads((run_dir / "test.json").read_text())
        found[str(count)] = round(result["accuracy"] * result["images"])
    return found


def measure_throughput(folder: Path, data: list[object]) -> dict[str, Any]:
    """Measure images/s of `fast94` on two cores: two threads or two processes, interleaved."""
    found: dict[str, list[float]] = {"one process, two threads": [], "two processes": []}
    for number in range(ROUNDS):
        for name, count in (("one process, two threads", 1), ("two processes", 2)):
            run_dir = folder / f"speed{number}{count}"
            args = ["fit", "--recipe", "fast94", *data, "--trainer.precision", "bf16-mixed", "--trainer.max_steps", 60]
            run(*args, "--run_dir", run_dir, *by(count), threads=3 - count)
            with (run_dir / "metrics.csv").open(newline="") as opened:
                speeds = [float(row["time/images_per_second"] or 0) for row in csv.DictReader(opened)]
            found[name].append(max(speeds))
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratio = medians["two processes"] / medians["one process, two threads"]
    return {"images_per_second": found, "median": medians, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True)
    root = parser.parse_args().root
    data: list[object] = ["--data.root", root]
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "command": "python benchmarks/distributed.py --root DIR",
            "git_commit": find_commit(),
            "cpu": find_cpu_name(),
            "data": "CIFAR-10",
            "steps": STEPS,
            "difference": compare_weights(Path(folder), data),
            "right_answers": count_correct(Path(folder)),
            "throughput": measure_throughput(Path(folder), data),
        }
    write_result("distributed", result)
    print_tables(TABLES)


def tabulate_differences() -> str:
    result, rows = load_result("distributed"), []
    for recipe, found in result["difference"].items():
        row = [f"`{recipe}`"]
        for how in ("two_processes_float64", "two_processes", "two_threads"):
            row.append(f"{found[how]['all']:.0e} ({found[how]['worst']:.0e})" if how in found else MISSING)
        rows.append(row)
    head = ["all weights (the worst tensor)", "two processes, float64", "float32", "two threads, float32"]
    return format_table(head, rows, result["command"])


def tabulate_throughput() -> str:
    result = load_result("distributed")
    right, speed = result["right_answers"], result["throughput"]
    head = ["", "1 process", "2 processes", "3 processes"]
    rows = [["test images classified correctly", *(f"{right[count]:,}" for count in ("1", "2", "3"))]]
    one, two = (f"{speed['median'][name]:,.0f} images/s" for name in ("one process, two threads", "two processes"))
    rows.append(["`fast94` on two cores", f"{one} by two threads", f"{two} ({speed['ratio']:.2f}x)", ""])
    return format_table(head, rows)


TABLES = {
    "distributed": tabulate_differences,
    "distributed_accuracy": tabulate_throughput,
}


if __name__ == "__main__":
    main()
