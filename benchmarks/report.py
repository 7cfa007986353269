"""The report's run (n = 1): ``fit`` with the recipe `report` on CIFAR-10, then ``test``.

    python benchmarks/report.py --root DIR [arguments of fit]

Writes ``benchmarks/results/report.json`` and ``docs/report.png``.
"""

import argparse
import csv
import json
import shutil
import sys
from datetime import datetime
from pathlib import Path

from formatting import format_percent, format_table, load_result

from lightning_cifar import main
from lightning_cifar.files import write_json

HERE = Path(__file__).parent


def run(root: str, extra: list[str]) -> None:
    run_dir = Path("runs/benchmarks/report") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    data = ["--data.root", root]
    stop(main(["fit", "--recipe", "report", *data, *extra, "--run_dir", str(run_dir)]))
    stop(main(["test", "--ckpt_path", str(run_dir / "checkpoints/last.ckpt"), "--run_dir", str(run_dir / "test")]))
    record = json.loads((run_dir / "run.json").read_text())
    record["data"].pop("root")
    epochs = read_epochs(run_dir / "metrics.csv")
    result = {
        "question": "What does the report's system reach, as reported: 30 epochs, Adam, one seed?",
        "command": " ".join(["python benchmarks/report.py --root DIR", *extra]),
        "data": "CIFAR-10",
        "final": epochs[-1],
        "test": json.loads((run_dir / "test/test.json").read_text()) | {"checkpoint": "last.ckpt"},
        "wall_seconds": record["timings"]["total_seconds"],
        "train_seconds": sum(epoch["time/epoch_seconds"] for epoch in epochs),
        "images_per_second": sorted(epoch["time/epoch_images_per_second"] for epoch in epochs)[len(epochs) // 2],
        "run": {key: value for key, value in record.items() if key not in ("command", "metrics", "timings")},
        "epochs": epochs,
    }
    write_json(HERE / "results/report.json", result)
    shutil.copy(run_dir / "curves.png", HERE.parent / "docs/report.png")


def stop(status: int) -> None:
    if status:
        sys.exit(status)


def read_epochs(file: Path) -> list[dict[str, float]]:
    """Return one dictionary per epoch of the epoch values in ``metrics.csv``."""
    epochs: dict[int, dict[str, float]] = {}
    with file.open(newline="") as opened:
        for row in csv.DictReader(opened):
            values = {name: float(value) for name, value in row.items() if value and not name.endswith("_step")}
            epochs.setdefault(int(row["epoch"]), {}).update(values)
    return [{**values, "epoch": epoch + 1} for epoch, values in sorted(epochs.items())]


def tabulate() -> str:
    """Format the report's run and the one here."""
    found = load_result("report")
    last, before = found["final"], [epoch["test/accuracy"] for epoch in found["epochs"][-11:-1]]
    lowest, highest, average = map(format_percent, (min(before), max(before), sum(before) / len(before)))
    rows = [
        ["the course report, CIFAR-10", "83.5 %", "", "", "0.319", "88.9 %", ""],
        [
            f"`report`, {found['data']}",
            format_percent(found["test"]["accuracy"]),
            f"{lowest} to {highest}, on average {average}",
            f"{found['test']['loss']:.3f}",
            f"{last['train/loss_epoch']:.3f}",
            f"{100 * last['train/accuracy_epoch']:.1f} %",
            f"{found['images_per_second']:,.0f}",
        ],
    ]
    head = ["n = 1", "test accuracy", "in the ten epochs before", "test loss", "training loss", "training accuracy"]
    return format_table([*head, "images/s"], rows, found["command"])


TABLES = {
    "report_run": tabulate,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    known, extra = parser.parse_known_args()
    run(known.root, extra)
