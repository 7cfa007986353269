"""Accuracy of the packaged model on corrupted test images.

    python benchmarks/corruptions.py --root DIR [arguments of test]

DIR is the data directory. Runs ``test --ckpt_path pretrained --corruptions`` (n = 1, CPU or GPU) and writes
its ``test.json``, without per-image lists and confusions, to ``benchmarks/results/corruptions.json``.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from formatting import format_percent, format_table, load_result, print_tables, write_result

from lightning_cifar import main

KEPT = ("images", "accuracy", "accuracy_without_tta", "loss", "brier", "calibration_error", "corruptions")


def measure(root: str, extra: list[str]) -> None:
    command = ["test", "--ckpt_path", "pretrained", "--corruptions"]
    with tempfile.TemporaryDirectory() as parent:
        run_dir = Path(parent, "test")
        if status := main([*command, "--data.root", root, "--run_dir", str(run_dir), *extra]):
            sys.exit(status)
        found = json.loads((run_dir / "test.json").read_text())
    result = {
        "question": "What is the model in the package worth under corruptions, without test-time augmentation?",
        "command": " ".join(["python benchmarks/corruptions.py --root DIR", *extra]),
        "data": "CIFAR-10",
        "model_sha256": found["checkpoint_sha256"],
        **{name: found[name] for name in KEPT},
    }
    write_result("corruptions", result)
    print_tables(TABLES)


def tabulate() -> str:
    result = load_result("corruptions")
    rows = [
        [name, *map(format_percent, found), format_percent(sum(found) / len(found))]
        for name, found in result["corruptions"].items()
    ]
    head = [f"{result['data']}, corrupted", *(f"severity {number}" for number in range(1, 6)), "mean"]
    return format_table(head, rows, result["command"])


TABLES = {
    "corruptions": tabulate,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    known, extra = parser.parse_known_args()
    measure(known.root, extra)
