"""Networks at equal training time: the five-block network of a recipe and others, with the same training and images.

    python benchmarks/networks.py --root DIR [--recipe fast94] [--networks resnet18 ...] [--seeds 3] [--first_seed 0]
        [--steps N] [--run_dir RUN_DIR]

First each network trains for 40 steps, in turn, three times; the medians give the steps that take as long as N steps of
the five-block network (default: the recipe's). Then `repeat` trains each. With the same ``--run_dir``, an interrupted
comparison resumes. Writes ``benchmarks/results/networks.json`` after each network.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from formatting import MEASURES, format_interval, format_spread, format_table, load_result, print_tables, write_result

from lightning_cifar import main
from lightning_cifar.evaluate.statistics import compare as compare_means
from lightning_cifar.evaluate.statistics import summarise
from lightning_cifar.files import write_json
from lightning_cifar.model.named import FIVE_BLOCK
from lightning_cifar.run.records.run_json import describe_device, find_commit
from lightning_cifar.run.settings.options import RECIPES

TRIAL, ROUNDS = 40, 3  # steps of a timed training, which has all image sizes of the recipe; number of them


def run(*args: object) -> None:
    if status := main([*map(str, args)]):
        sys.exit(status)


def time_steps(options: argparse.Namespace) -> dict[str, float]:
    """Return each network's median seconds for a step."""
    found: dict[str, list[float]] = {name: [] for name in options.networks}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(ROUNDS):
            for name, seconds in found.items():
                run_dir = Path(directory, f"{name.replace('/', '_')}{number}")
                train = ["fit", "--recipe", options.recipe, "--model.network", name, "--data.root", options.root]
                run(*train, *limit(TRIAL, TRIAL), "--run_dir", run_dir)
                seconds.append(json.loads((run_dir / "run.json").read_text())["timings"]["fit_seconds"] / TRIAL)
                print(f"{name}: {1000 * seconds[-1]:.0f} ms a step", flush=True)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def limit(steps: int, epochs: int) -> list[str]:
    return ["--trainer.max_steps", str(steps), "--trainer.max_epochs", str(epochs)]


def compare(options: argparse.Namespace) -> None:
    options.networks = [FIVE_BLOCK, *options.networks]
    options.run_dir.mkdir(parents=True, exist_ok=True)
    kept = options.run_dir / "steps.json"
    if not kept.exists():
        seconds = time_steps(options)
        total = options.steps * seconds[FIVE_BLOCK]
        steps = {name: round(total / one) for name, one in seconds.items()}
        write_json(kept, {"step_seconds": seconds, "steps": steps})
    known, rows = json.loads(kept.read_text()), []
    for name in options.networks:
        steps = known["steps"][name]
        directory = options.run_dir / name.replace("/", "_")
        series = ["--n", options.seeds, "--first_seed", options.first_seed, "--run_dir", directory]
        train = ["--recipe", options.recipe, "--model.network", name, "--data.root", options.root]
        run("repeat", *series, *train, *limit(steps, options.epochs if name == FIVE_BLOCK else math.ceil(steps / 100)))
        seeds = json.loads((directory / "repeat.json").read_text())["seeds"]
        measures = ("seed", *MEASURES, "fit_seconds")
        rows.append(
            {
                "network": name,
                "steps": steps,
                "step_seconds": known["step_seconds"][name],
                "parameters": count_parameters(directory / seeds[0]["directory"]),
                "runs": [{key: one[key] for key in measures} for one in seeds],
            }
        )
        keep(options, rows)


def count_parameters(run_dir: Path) -> int:
    from lightning_cifar import load_pretrained

    return sum(one.numel() for one in load_pretrained(run_dir).network.parameters())


def keep(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the evidence, and print the table."""
    names = " ".join(options.networks[1:])
    command = f"python benchmarks/networks.py --root DIR --recipe {options.recipe} --networks {names}"
    result = {
        "question": f"Which network is the best after the time that `{options.recipe}` trains?",
        "command": f"{command} --seeds {options.seeds} --first_seed {options.first_seed} --steps {options.steps}",
        "data": "CIFAR-10",
        "device": describe_device(torch.device("cpu")),
        "git_commit": find_commit(),
        "networks": rows,
    }
    write_result("networks", result)
    print_tables(TABLES)


def tabulate() -> str:
    result = load_result("networks")
    rows = []
    first = [run["accuracy"] for run in result["networks"][0]["runs"]]
    for one in result["networks"]:
        values = [[run[key] for run in one["runs"]] for key in MEASURES]
        gap = compare_means(first, values[1], 1) if one["network"] != FIVE_BLOCK and len(first) > 1 else None
        rows.append(
            [
                f"`{one['network']}`",
                f"{one['parameters'] / 1e6:.1f} M",
                f"{1000 * one['step_seconds']:.0f} ms",
                f"{one['steps']:,}",
                str(len(values[0])),
                *(format_spread(summarise(shares)) for shares in values),
                format_interval(gap, gap["distinct"]) if gap else "",
            ]
        )
    head = ["network", "parameters", "a step", "steps", "n", "without TTA", "with TTA", "against the first"]
    return format_table(head, rows, result["command"])


TABLES = {"networks": tabulate}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--recipe", default="fast94")
    parser.add_argument("--networks", nargs="+", default=["resnet18"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the five-block network")
    parser.add_argument("--run_dir", type=Path, default=Path("runs/benchmarks/networks"))
    chosen = parser.parse_args()
    recipe = yaml.safe_load(RECIPES[chosen.recipe].read_text())["trainer"]
    chosen.steps, chosen.epochs = chosen.steps or recipe["max_steps"], recipe["max_epochs"]
    compare(chosen)
