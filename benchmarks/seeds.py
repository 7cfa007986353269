"""Copy the seeds of a ``repeat`` into the evidence: ``benchmarks/results/RECIPE.json``.

    python -m lightning_cifar repeat --recipe RECIPE --n 3 --data.root DIR --run_dir RUN_DIR
    python benchmarks/seeds.py RUN_DIR [--name NAME] [--shared]

``--shared``: other jobs shared the machine, so that the tables give no training times. The tables below compare recipes
and variants that were trained by ``repeat``.
"""

import argparse
import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from formatting import MEASURES, MISSING, format_interval, format_spread, format_table, load_result, write_result

from lightning_cifar.commands.repeat.results import format_summary
from lightning_cifar.evaluate.statistics import compare

CIFAR10 = "bcc192dc7d5791490f85a7afeadee0a7f2b29a2834565c6e70594ba0b6339198"  # the fingerprint of the original images
STEPS = {"report": 196, "fast94_600": 50, "fast94_610": 50}  # of an epoch, where a batch has not 250 images
ACCURATE = {
    "accurate": "the recipe",
    "accurate_softmax": "the recipe with softmax gates",
    "accurate_before": "one network",
    "accurate_alone": "one network, flip-equivariant, crops by 2 instead of 4",
    "accurate_jpeg": "two networks of half the cost, flip-equivariant: `accurate` of version 0.1.0",
}
GATES = {
    "fast94": "ReLU, as reported",
    "fast94_static": "none: the sum of three branches",
    "fast94_softmax": "softmax",
}
GATES_JPEG = {"fast94_jpeg": "ReLU, as reported", "fast94_ungated": "none: the sum of three branches"}
SHORTER = {"fast94_600": "600 steps of 1,000, seeds 2 to 4", "fast94_610": "610 steps of 1,000, seeds 7 to 11"}


def take(run_dir: Path, name: str | None, shared: bool) -> None:
    result = json.loads((run_dir / "repeat.json").read_text())
    runs = [one["run"] for one in result["seeds"]]
    (recipe,) = {run["recipe"] for run in runs}
    assert {run["data"]["fingerprint"] for run in runs} == {CIFAR10}, "these are not the original images"
    gpus = sorted({run["device"]["name"] for run in runs if run["device"]["type"] == "cuda"})
    gpu = ", ".join(gpus) or MISSING
    words = shlex.split(result["command"])
    for option, stands in (("--data.root", "DIR"), ("--run_dir", "RUN_DIR")):
        if option in words:
            words[words.index(option) + 1] = stands
    evidence = result | {"command": " ".join(words), "data": "CIFAR-10", "gpu": gpu}
    evidence["shared"] = shared
    write_result(name or recipe, evidence)
    print(format_summary(evidence))


def tabulate_recipes() -> str:
    """Format the results of all recipes, one row each."""
    rows = [["the course report", "CIFAR-10", "83.5 %", "", "1", "30", "not stated"]]
    rows += [summarise_repeat(f"`{name}`", name) for name in ("report", "fast", "fast94", "accurate")]
    return format_table(["recipe", *REPEATED], rows)


def tabulate_variants(labels: dict[str, str]) -> str:
    """Format variants of a recipe: the files of their results, and what the rows say."""
    return format_table(["variant", *REPEATED], [summarise_repeat(label, name) for name, label in labels.items()])


def tabulate_gates(labels: dict[str, str]) -> str:
    """Format `fast94` with several gates, the first of which is compared with the others."""
    found = [load_result(name) for name in labels]
    baselines = [{}, *[collect_accuracies(found[0])] * (len(found) - 1)]
    rows = [
        [label, f"{one['n']}", *compare_accuracies(one, baseline)]
        for label, one, baseline in zip(labels.values(), found, baselines, strict=True)
    ]
    against = "against the first"
    return format_table(["`fast94`", "n", "without TTA", against, "with TTA", against], rows, found[1]["command"])


REPEATED = ["data", "test accuracy", "with test-time augmentation", "n", "epochs", "training time"]


def summarise_repeat(label: str, name: str) -> list[str]:
    """Return the row of a ``repeat``, with the columns of `REPEATED`."""
    found = load_result(name)
    epochs = found["seeds"][0]["steps"] / STEPS.get(name, 200)
    accuracies = [format_spread(found[key]) for key in MEASURES]
    if name == "report":  # it averages nothing
        accuracies[1] = ""
    seconds = found["train_seconds"]["median"]
    time = MISSING if found.get("shared") else f"{seconds / 60:.2g} min" if seconds >= 100 else f"{seconds:.0f} s"
    return [label, found["data"], *accuracies, f"{found['n']}", f"{epochs:.3g}", time]


def collect_accuracies(found: dict[str, Any]) -> dict[str, list[float]]:
    """Return both accuracies of every seed of a ``repeat``."""
    return {key: [seed[key] for seed in found["seeds"]] for key in MEASURES}


def compare_accuracies(found: dict[str, Any], before: dict[str, list[float]]) -> list[str]:
    """Return cells of both accuracies, each with its difference from those in ``before``, if there are any."""
    cells = []
    for key, values in collect_accuracies(found).items():
        gap = compare(before[key], values) if key in before else None
        cells += [format_spread(found[key]), format_interval(gap, gap["distinct"]) if gap else ""]
    return cells


TABLES = {
    "accurate_forms": partial(tabulate_variants, ACCURATE),
    "fast94_shorter": partial(tabulate_variants, SHORTER),
    "gates_fast94": partial(tabulate_gates, GATES),
    "gates_longer": partial(tabulate_gates, GATES_JPEG),
    "results": tabulate_recipes,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--name", help="of the file; default: the recipe")
    parser.add_argument("--shared", action="store_true", help="other jobs shared the machine: no times")
    known = parser.parse_args()
    take(known.run_dir, known.name, known.shared)
