"""Takes the seeds of a ``repeat`` into the evidence: ``benchmarks/results/RECIPE.json``.

python -m lightning_cifar repeat --recipe RECIPE --n 3 --data.dataset folder --data.root DIR --run_dir RUN_DIR
python benchmarks/seeds.py RUN_DIR [--name NAME]
"""

import argparse
import json
import shlex
from pathlib import Path

from lightning_cifar.commands.repeat.command import format_summary
from lightning_cifar.run.record import write_json

KNOWN = {"4a5f1bef3edaa001c469a58ffe2577affdcd0cb22f2c15a2df29649ef4dd1d84": "CIFAR-10 (JPEG)"}  # by fingerprint


def take(run_dir: Path, name: str | None) -> None:
    result = json.loads((run_dir / "repeat.json").read_text())
    runs = [one["run"] for one in result["seeds"]]
    (recipe,) = {run["recipe"] for run in runs}
    (fingerprint,) = {run["data"]["fingerprint"] for run in runs}
    gpus = sorted({run["device"]["name"] for run in runs if run["device"]["type"] == "cuda"})
    gpu = ", ".join(gpus) or "not measured"
    words = shlex.split(result["command"])
    for option, stands in (("--data.root", "DIR"), ("--run_dir", "RUN_DIR")):
        if option in words:
            words[words.index(option) + 1] = stands
    evidence = result | {"command": " ".join(words), "data": KNOWN[fingerprint], "gpu": gpu}
    write_json(Path(__file__).parent / f"results/{name or recipe}.json", evidence)
    print(format_summary(evidence))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--name", help="of the file; default: the recipe")
    known = parser.parse_args()
    take(known.run_dir, known.name)
