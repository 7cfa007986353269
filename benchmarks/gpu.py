"""How long do recipes train on a GPU, and to what accuracy, beside cifar10-airbench's scripts on the same images?

    python benchmarks/gpu.py --root DIR --airbench CLONE [--recipes ... --peers ... --seeds N] [arguments of fit]

DIR is an image folder of CIFAR-10, CLONE a clone of github.com/KellerJordan/cifar10-airbench. Recipes are trained and
tested by ``repeat``. The scripts run as they are, in a directory where they find DIR's images in place of those that
they would download, and their first run, which compiles, is not counted; of ours, the first seed's time is not, for the
same reason. Times are of training alone, the scripts' with the evaluation at its end. Of a recipe as it is, the stages
of a step are timed too, each waited for. Prints one table and writes ``benchmarks/results/gpu.json`` after every recipe
and script, so that what is done is kept; what is named again is measured again.
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
from step import Step

from lightning_cifar import CIFAR10DataModule
from lightning_cifar.evaluate.statistics import summary
from lightning_cifar.evaluate.tables import align_columns
from lightning_cifar.run.record import describe_device, write_json

RESULT = Path(__file__).parent / "results/gpu.json"


def trained(recipe: str, root: str, seeds: int, extra: list[str]) -> dict[str, Any]:
    """What `repeat` says of so many seeds, at least two, but for the time of the first."""
    command = ["repeat", "--recipe", recipe, "--n", str(seeds), *extra]
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        place = ["--data.dataset", "folder", "--data.root", root, "--run_dir", str(run_dir)]
        subprocess.run([sys.executable, "-m", "lightning_cifar", *command, *place], check=True)
        found: dict[str, Any] = json.loads((run_dir / "repeat.json").read_text())
    first, *others = (run["train_seconds"] for run in found["seeds"])
    command_line = " ".join(["python -m lightning_cifar", *command])
    return found | {"command": command_line, "first_seconds": first, "train_seconds": summary(others)}


def peer(script: Path, data: CIFAR10DataModule, runs: int) -> dict[str, Any]:
    """What a script of cifar10-airbench prints of ``runs`` runs, after the one that compiles."""
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
    return {"n": runs, **{key: {**summary(values), "all": values} for key, values in found.items()}}


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
        result["rows"][name] = peer(next(Path(known.airbench).rglob(name)), data, known.seeds)
        write_json(RESULT, result)
    for recipe in known.recipes:
        name = " ".join([recipe, *extra])
        result["rows"][name] = trained(recipe, known.root, known.seeds, extra)
        if not extra:
            result["rows"][name]["stages"] = Step(recipe).stages()
        write_json(RESULT, result)
    rows = [["", "n", "training, s", "without TTA, %", "with TTA, %"]]
    for name, found in result["rows"].items():
        shares = [f"{100 * found[key]['mean']:.2f}" for key in ("accuracy_without_tta", "accuracy")]
        rows.append([name, str(found["n"]), f"{found['train_seconds']['median']:.1f}", *shares])
    print(align_columns(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the image folder")
    parser.add_argument("--airbench", help="a clone of cifar10-airbench")
    parser.add_argument("--recipes", nargs="*", default=["report", "fast", "fast94", "accurate"])
    parser.add_argument("--peers", nargs="*", default=["airbench94_muon.py", "airbench96_faster.py"])
    parser.add_argument("--seeds", type=int, default=3, help="that count, of each")
    parser.add_argument("--data_name", default="CIFAR-10 (JPEG)", help="what the tables call it")
    main(*parser.parse_known_args())
