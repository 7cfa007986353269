"""Learning curves: accuracy from a few images of each class, started from the packaged model and from new weights.

    python benchmarks/finetuning.py --root DIR --data NAME [--counts 20 50 200] [--seeds 3] [--run_dir RUN_DIR]

DIR is an image folder with ``train/<class>/*`` and ``test/<class>/*``, of classes that are not CIFAR-10's. Each seed
draws its images of the training part and tests on the whole test part. With the same ``--run_dir``, an interrupted
comparison resumes. Writes ``benchmarks/results/finetuning.json`` after each row, and ``docs/finetuning.svg`` last.
"""

import argparse
import csv
import json
import random
import shlex
import sys
from pathlib import Path
from typing import Any

from formatting import MISSING, format_table, load_result, print_tables, write_result

from lightning_cifar import main
from lightning_cifar.evaluate.statistics import summarise
from lightning_cifar.sources.layout import list_class_files

# How each kind of training starts.
STARTS = {
    "the packaged model": ["--init_from", "pretrained"],
    "new weights": ["--recipe", "report", "--data.batch_size", "32", "--trainer.log_every_n_steps", "1"],
}


def choose_images(root: Path, count: int, seed: int, file: Path) -> None:
    """Write a CSV file with ``count`` images of each class to train on, and all test images."""
    parts, rows = list_class_files(root), []
    for name, paths in sorted(parts["train"].items()):
        chosen = random.Random(f"{seed} {name}").sample(sorted(paths), count)
        rows += [(path, name, "train") for path in chosen]
    rows += [(path, name, "test") for name, paths in sorted(parts["test"].items()) for path in sorted(paths)]
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([("path", "label", "split"), *rows])


def measure(options: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for count in options.counts:
        for name, start in STARTS.items():
            runs = [train(options, count, name, start, seed) for seed in range(options.seeds)]
            rows.append({"images_per_class": count, "start": name, "runs": runs})
            keep(options, rows)
    draw(rows)


def train(options: argparse.Namespace, count: int, name: str, start: list[str], seed: int) -> dict[str, Any]:
    directory = options.run_dir / f"{count}_{name.split()[-1]}_{seed}"
    file = directory / f"seed{seed}.json"
    if not file.exists():
        labels = options.run_dir / f"{count}_{seed}.csv"
        options.run_dir.mkdir(parents=True, exist_ok=True)
        choose_images(options.root, count, seed, labels)
        data = ["--data.dataset", "folder", "--data.root", options.root, "--data.labels", labels.resolve()]
        # All training images are used, and nothing is selected by the test images.
        data += ["--data.held_out", "test", "--trainer.limit_val_batches", 0]
        series = ["--n", 1, "--first_seed", seed, "--run_dir", directory]
        if status := main([*map(str, ["repeat", *series, *start, *data])]):
            sys.exit(status)
    found = json.loads(file.read_text())
    return {key: found[key] for key in ("seed", "accuracy", "fit_seconds", "steps")}


def keep(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the evidence, and print the table."""
    words = ["--data", shlex.quote(options.data), "--counts", *map(str, options.counts), "--seeds", str(options.seeds)]
    result = {
        "command": " ".join(["python benchmarks/finetuning.py --root DIR", *words]),
        "data": options.data,
        "starts": {name: " ".join(words) for name, words in STARTS.items()},
        "rows": rows,
    }
    write_result("finetuning", result)
    print_tables(TABLES)


def tabulate() -> str:
    result, rows = load_result("finetuning"), []
    for count in dict.fromkeys(row["images_per_class"] for row in result["rows"]):
        cells = [str(count)]
        for row in (row for row in result["rows"] if row["images_per_class"] == count):
            found = summarise([run["accuracy"] for run in row["runs"]], (0, 1))
            low, high = found["interval"] or (found["mean"], found["mean"])
            cells.append(f"{100 * found['mean']:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
        rows.append(cells + [MISSING] * (1 + len(result["starts"]) - len(cells)))
    return format_table(["images of each class", *result["starts"]], rows, result["command"])


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw the learning curves with the range of their seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in STARTS:
        found = [(row["images_per_class"], [100 * run["accuracy"] for run in row["runs"]]) for row in rows
                 if row["start"] == name]  # fmt: skip
        counts = [count for count, _ in found]
        means = [sum(values) / len(values) for _, values in found]
        (line,) = axes.plot(counts, means, marker="o", label=name)
        axes.fill_between(
            counts, [min(values) for _, values in found], [max(values) for _, values in found], alpha=0.2,
            color=line.get_color(),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.minorticks_off()
    axes.set(xlabel="training images of each class", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(title="start from")
    figure.savefig(Path(__file__).parents[1] / "docs/finetuning.svg")


TABLES = {"finetuning": tabulate}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the image folder")
    parser.add_argument("--data", required=True, help="what it holds, for the evidence")
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50, 200], help="images of each class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/benchmarks/finetuning"))
    measure(parser.parse_args())
