"""A recipe and cifar10-airbench's airbench94_muon.py on the same CPU and images, in turn: accuracy and training time.

    python benchmarks/peers.py --root DIR --script FILE [--recipe fast94] [--seeds 5] [--epochs 8] [--run_dir RUN_DIR]
        [arguments of fit]

FILE is airbench94_muon.py in a clone of KellerJordan/cifar10-airbench; `peer_on_cpu.py` runs it. For each seed it runs
once, and ``repeat`` once. Both train on all 50,000 images and read the test set once; both times are of training alone.
With the same ``--run_dir``, an interrupted comparison resumes. Writes ``benchmarks/results/peers_RECIPE.json`` after
each seed. For a GPU: `gpu.py`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from formatting import MEASURES, format_spread, format_table, load_result, write_result
from peer_script import COLUMNS, read_runs, write_images

from lightning_cifar import CIFAR10DataModule, main
from lightning_cifar.evaluate.statistics import summarise
from lightning_cifar.files import write_json
from lightning_cifar.run.records.run_json import describe_device, find_commit

SHIM = Path(__file__).parent / "peer_on_cpu.py"


def compare(options: argparse.Namespace, extra: list[str]) -> None:
    data = CIFAR10DataModule(root=options.root, held_out="test")
    data.setup()
    options.run_dir.mkdir(parents=True, exist_ok=True)
    kept = options.run_dir / "peer.json"
    runs: list[dict[str, Any]] = json.loads(kept.read_text())["runs"] if kept.exists() else []
    with tempfile.TemporaryDirectory() as directory:
        write_images(data, Path(directory) / "cifar10")
        for seed in range(options.seeds):
            if seed >= len(runs):
                runs.append({"seed": seed, **run_peer(options, Path(directory), seed)})
                write_json(kept, {"runs": runs})
            command = ["repeat", "--recipe", options.recipe, "--n", "1", "--first_seed", str(seed), *extra]
            if status := main([*command, "--data.root", options.root, "--run_dir", str(options.run_dir / "repeat")]):
                sys.exit(status)
            keep(options, extra, runs[: seed + 1])


def run_peer(options: argparse.Namespace, directory: Path, seed: int) -> dict[str, float]:
    """Train the peer once; return its accuracies and its seconds of training."""
    script = [str(options.script.resolve()), "--seed", str(seed), "--epochs", str(options.epochs)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(SHIM), *script], cwd=directory, env=environment, stdout=subprocess.PIPE, text=True
    )
    found = [*read_runs(done.stdout.splitlines())]
    if done.returncode or len(found) != 1:
        raise SystemExit(f"{options.script} ended with status {done.returncode} and {len(found)} results")
    run = {key: float(found[0][name]) for key, name in {**COLUMNS, "seconds": "training_seconds"}.items()}
    print(f"{options.script.name}, seed {seed}: {run['accuracy']:.2%} in {run['seconds']:.0f} s", flush=True)
    return run


def keep(options: argparse.Namespace, extra: list[str], runs: list[dict[str, Any]]) -> None:
    """Write the evidence, and print the table."""
    repeated = json.loads((options.run_dir / "repeat/repeat.json").read_text())
    own = [{"seed": one["seed"], "seconds": one["fit_seconds"], **{key: one[key] for key in MEASURES}}
           for one in repeated["seeds"] if one["seed"] < len(runs)]  # fmt: skip
    name = f"peers_{options.recipe}"
    result = {
        "question": f"How long does `{options.recipe}` train, compared with {options.script.name}?",
        "command": " ".join(
            [
                f"python benchmarks/peers.py --root DIR --script FILE --recipe {options.recipe}",
                *(f"--seeds {len(runs)}", f"--epochs {options.epochs:g}", *extra),
            ]
        ),
        "data": "CIFAR-10",
        "device": describe_device(torch.device("cpu")),
        "git_commit": find_commit(),
        "recipe": " ".join([options.recipe, *extra]),
        "script": options.script.name,
        "epochs": options.epochs,
        "runs": {"recipe": own, "script": runs},
    }
    write_result(name, result)
    print(tabulate(name))


def tabulate(name: str) -> str:
    result, rows, medians = load_result(name), [], []
    length = f"{result['epochs']:g} epoch{'s' if result['epochs'] != 1 else ''}"
    labels = {"recipe": f"`{result['recipe']}`", "script": f"`{result['script']}`, {length}"}
    for kind, label in labels.items():
        runs = result["runs"][kind]
        medians.append(statistics.median(run["seconds"] for run in runs))
        accuracies = [format_spread(summarise([run[key] for run in runs])) for key in MEASURES]
        rows.append([label, str(len(runs)), *accuracies, f"{medians[-1]:.0f} s", f"{medians[-1] / medians[0]:.2f}"])
    head = ["", "n", "without TTA", "with TTA", "training, median", "over the first"]
    return format_table(head, rows, result["command"])


FILES = ("peers_fast", "peers_fast94", "peers_fast94_batches", "peers_fast94_avx2")
TABLES = {name: partial(tabulate, name) for name in FILES}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--script", required=True, type=Path, help="airbench94_muon.py")
    parser.add_argument("--recipe", default="fast94")
    parser.add_argument("--seeds", type=int, default=5, help="0 ... seeds - 1")
    parser.add_argument("--epochs", type=float, default=8, help="of the script")
    parser.add_argument("--run_dir", type=Path, default=Path("runs/benchmarks/peers"))
    compare(*parser.parse_known_args())
