"""Training time and accuracy of recipes on a GPU, compared with cifar10-airbench's scripts on the same images.

    python benchmarks/gpu.py --root DIR --airbench CLONE [--recipes ... --peers ... --seeds N] [arguments of fit]

DIR is an image folder of CIFAR-10, CLONE a clone of github.com/KellerJordan/cifar10-airbench. ``repeat`` trains and
tests recipes. The scripts run unmodified in a directory that holds DIR's images where they expect their download. The
first run of each compiles and is not counted in the times. Times cover training, plus the final evaluation for the
scripts. For recipes without further arguments the stages of a step are timed too, with a synchronisation after each.
Prints a table and updates ``benchmarks/results/gpu.json`` after every recipe and script; measuring a name again
replaces it.

The tables below are of ``gpu_first.json``, which holds runs started by hand on one H200.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from formatting import format_percent, format_table, load_result
from training_step import Step

from lightning_cifar import CIFAR10DataModule
from lightning_cifar.evaluate.statistics import summarise
from lightning_cifar.evaluate.tables import align_columns
from lightning_cifar.files import write_json
from lightning_cifar.run.record import describe_device

RESULT = Path(__file__).parent / "results/gpu.json"


def train_recipe(recipe: str, root: str, seeds: int, extra: list[str]) -> dict[str, Any]:
    """Return the result of ``repeat`` (at least two seeds), with the first seed's time apart."""
    command = ["repeat", "--recipe", recipe, "--n", str(seeds), *extra]
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        place = ["--data.dataset", "folder", "--data.root", root, "--run_dir", str(run_dir)]
        subprocess.run([sys.executable, "-m", "lightning_cifar", *command, *place], check=True)
        found: dict[str, Any] = json.loads((run_dir / "repeat.json").read_text())
    first, *others = (run["train_seconds"] for run in found["seeds"])
    command_line = " ".join(["python -m lightning_cifar", *command])
    return found | {"command": command_line, "first_seconds": first, "train_seconds": summarise(others)}


def run_peer(script: Path, data: CIFAR10DataModule, runs: int) -> dict[str, Any]:
    """Return what a cifar10-airbench script prints for ``runs`` runs after the one that compiles."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "cifar10"
        folder.mkdir()
        for name, part in (("train", data.dataset.train), ("test", data.dataset.test)):
            images = part.images.permute(0, 2, 3, 1).contiguous()  # type: ignore[union-attr]
            kept = {"images": images, "labels": part.labels, "classes": list(data.dataset.class_names)}
            torch.save(kept, folder / f"{name}.pt")
        command = [sys.executable, str(script.resolve())]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        ended: list[dict[str, str]] = []
        names: list[str] = []
        with subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
                if "tta_val_acc" in cells:
                    names = cells
                elif "eval" in cells:
                    ended.append(dict(zip(names, cells, strict=True)))
                if len(ended) == runs + 1:
                    process.terminate()
                    break
        if len(ended) <= runs:
            sys.exit(f"{script.name} ended after {len(ended)} runs")
    (seconds,) = (name for name in names if name.endswith("time_seconds"))
    columns = {"accuracy": "tta_val_acc", "accuracy_without_tta": "val_acc", "train_seconds": seconds}
    found = {key: [float(run[name]) for run in ended[1:]] for key, name in columns.items()}
    return {"n": runs, **{key: {**summarise(values), "all": values} for key, values in found.items()}}


def main(known: argparse.Namespace, extra: list[str]) -> None:
    data = CIFAR10DataModule("folder", known.root, held_out="test")
    data.setup()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": {}}
    result |= {
        "question": "How long do recipes train on a GPU, beside cifar10-airbench's scripts?",
        "command": "python benchmarks/gpu.py --root DIR --airbench CLONE",
        "data": known.data_name,
        "device": describe_device(torch.device("cuda")),
        "torch": torch.__version__,
    }
    for name in known.peers:
        result["rows"][name] = run_peer(next(Path(known.airbench).rglob(name)), data, known.seeds)
        write_json(RESULT, result)
    for recipe in known.recipes:
        name = " ".join([recipe, *extra])
        result["rows"][name] = train_recipe(recipe, known.root, known.seeds, extra)
        if not extra:
            result["rows"][name]["stages"] = Step(recipe).stages()
        write_json(RESULT, result)
    rows = [["", "n", "training, s", "without TTA, %", "with TTA, %"]]
    for name, found in result["rows"].items():
        shares = [f"{100 * found[key]['mean']:.2f}" for key in ("accuracy_without_tta", "accuracy")]
        rows.append([name, str(found["n"]), f"{found['train_seconds']['median']:.1f}", *shares])
    print(align_columns(rows))


def tabulate_stages() -> str:
    rows = []
    for batch, found in load_result("gpu_first")["stages"].items():
        stages = [f"{time:.1f} ms" for time in found["milliseconds"].values()]
        rows.append([batch, f"{found['step_milliseconds']:.0f} ms", *stages])
    head = ["`fast94`, batches of", "a step", "augmentation", "forward", "metrics", "backward", "optimiser"]
    return format_table(head, rows)


def tabulate_batches() -> str:
    rows = [
        [
            found["batch"],
            f"{found['steps']:,}",
            format_percent(found["val_accuracy"]),
            format_percent(found["val_accuracy_tta"]),
        ]
        for found in load_result("gpu_first")["validated"]
    ]
    head = ["`fast94`, batches of", "steps", "validation accuracy", "with test-time augmentation"]
    return format_table(head, rows)


TABLES = {
    "gpu_stages": tabulate_stages,
    "gpu_batches": tabulate_batches,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the image folder")
    parser.add_argument("--airbench", help="a clone of cifar10-airbench")
    parser.add_argument("--recipes", nargs="*", default=["report", "fast", "fast94", "accurate"])
    parser.add_argument("--peers", nargs="*", default=["airbench94_muon.py", "airbench96_faster.py"])
    parser.add_argument("--seeds", type=int, default=3, help="counted seeds or runs of each")
    parser.add_argument("--data_name", default="CIFAR-10 (JPEG)", help="name of the data in the tables")
    main(*parser.parse_known_args())
