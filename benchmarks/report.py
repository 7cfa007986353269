"""The first seed of `report`, epoch by epoch: ``benchmarks/results/report_epochs.json`` and ``docs/report.png``.

    python -m lightning_cifar repeat --recipe report --n 3 --data.root DIR --run_dir RUN_DIR
    python benchmarks/report.py RUN_DIR

RUN_DIR is a directory of ``repeat``.
"""

import argparse
import csv
import shutil
from pathlib import Path

from formatting import format_percent, format_table, load_result, print_tables, write_result

COLUMNS = ("train/loss_epoch", "train/accuracy_epoch", "test/loss", "test/accuracy")


def take(run_dir: Path) -> None:
    first = run_dir / "seed0"
    result = {
        "question": "What does the report's system reach, epoch by epoch?",
        "command": "python benchmarks/report.py RUN_DIR",
        "data": "CIFAR-10",
        "seed": 0,
        "epochs": read_epochs(first / "metrics.csv"),
    }
    write_result("report_epochs", result)
    shutil.copy(first / "curves.png", Path(__file__).parents[1] / "docs/report.png")
    print_tables(TABLES)


def read_epochs(file: Path) -> list[dict[str, float]]:
    """Return one dictionary per epoch of the epoch values in ``metrics.csv``."""
    epochs: dict[int, dict[str, float]] = {}
    with file.open(newline="") as opened:
        for row in csv.DictReader(opened):
            values = {name: float(value) for name, value in row.items() if name in COLUMNS and value}
            epochs.setdefault(int(row["epoch"]), {}).update(values)
    return [{**values, "epoch": epoch + 1} for epoch, values in sorted(epochs.items())]


def tabulate() -> str:
    """Format the report's run and the first seed here."""
    found, (first, *_) = load_result("report_epochs"), load_result("report")["seeds"]
    last, before = found["epochs"][-1], [epoch["test/accuracy"] for epoch in found["epochs"][-11:-1]]
    lowest, highest, average = map(format_percent, (min(before), max(before), sum(before) / len(before)))
    rows = [
        ["the course report", "83.5 %", "", "", "0.319", "88.9 %"],
        [
            f"`report`, seed {first['seed']}",
            format_percent(first["accuracy"]),
            f"{lowest} to {highest}, on average {average}",
            f"{first['loss']:.3f}",
            f"{last['train/loss_epoch']:.3f}",
            f"{100 * last['train/accuracy_epoch']:.1f} %",
        ],
    ]
    head = ["CIFAR-10", "test accuracy", "in the ten epochs before", "test loss", "training loss", "training accuracy"]
    return format_table(head, rows, found["command"])


TABLES = {
    "report_run": tabulate,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    take(parser.parse_args().run_dir)
