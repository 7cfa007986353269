"""Variants of a recipe, n seeds each, with the difference between them and its 95 % interval (Welch).

    python benchmarks/study.py gates --root DIR [--seeds N] [--run_dir DIR] [--shared] [arguments of fit]

``repeat`` trains and tests every variant with the same n seeds; those that diverge are named and left out, even if they
are all seeds of a variant. The same command with the same ``--run_dir`` resumes an interrupted study. Writes
``benchmarks/results/STUDY.json`` after each variant: every seed, the cost, and the difference from the first or the
previous variant; prints a table last. ``--shared``: other jobs shared the machine, so that the table gives no times.
"""

import argparse
import json
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from formatting import MEASURES, MISSING, format_interval, format_spread, format_table, load_result, write_result
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from lightning_cifar import ImageClassifier, main
from lightning_cifar.evaluate.statistics import compare

DIVERGED = 3  # exit status of `repeat`, whose other seeds are trained


class Study(NamedTuple):
    question: str
    against: Literal["first", "previous"]
    forms: dict[str, str]  # arguments of ``repeat``, by variant


FAST = "--recipe fast --trainer.max_steps 300"  # the recipe has 290, chosen after these studies
# One 3x3 branch instead of 3x3, 1x1 and 1x1: a tenth wider, it costs the same.
WIDE = "--model.gate static --model.kernel_sizes [3] --model.widths [36,70,106,142,176]"
SLOWER = "--model.gate_rate 0.002"  # at the recipe's 0.02, delta, which nothing bounds, diverges within ten steps
STUDIES = {
    "gates": Study(
        "Does the report's gate pay, at equal FLOPs?",
        "first",
        {
            "ReLU, as reported": f"{FAST} --model.gate relu",
            "none: the sum of three branches": f"{FAST} --model.gate static",
            "none: one branch, a tenth wider": f"{FAST} {WIDE}",
            "softmax": f"{FAST} --model.gate softmax",
            "residual: 1 + delta, at a tenth of the gates' rate": f"{FAST} --model.gate residual {SLOWER}",
            "channel: squeeze-and-excite": f"{FAST} --model.gate channel",
        },
    ),
    "gate_gradient": Study(
        "Does it help that a gate of 0 has a gradient?",
        "first",
        {"ReLU, as reported": f"{FAST} --model.gate relu", "straight-through": f"{FAST} --model.gate straight_through"},
    ),
}


def run(name: str, root: str, seeds: int, where: Path, shared: bool, extra: list[str]) -> None:
    study, forms = STUDIES[name], {}
    for number, (form, typed) in enumerate(study.forms.items()):
        run_dir = where / str(number)
        command = ["repeat", *typed.split(), "--n", str(seeds), *extra]
        print(f"{form}:", flush=True)
        status, file = main([*command, "--run_dir", str(run_dir), "--data.root", root]), run_dir / "repeat.json"
        results = [json.loads(one.read_text()) for one in sorted(run_dir.glob("seed*.json"))]
        lost = [one for one in results if "diverged" in one]
        if status and (status != DIVERGED or not lost):
            sys.exit(status)
        all_lost = {"n": 0, "seeds": [], "diverged": lost}
        found = json.loads(file.read_text()) if file.exists() else all_lost
        found |= {"command": " ".join(["python -m lightning_cifar", *command]), "megaflop_per_image": megaflop(run_dir)}
        other = [*forms.values()][0 if study.against == "first" else -1] if forms else {"seeds": []}
        if min(len(one["seeds"]) for one in (other, found)) > 1:
            found["difference"] = {
                key: compare(*([seed[key] for seed in one["seeds"]] for one in (other, found))) for key in MEASURES
            }
        forms[form] = found
        result = {
            "question": study.question,
            "command": " ".join(["python benchmarks/study.py", name, "--root DIR --seeds", str(seeds), *extra]),
            "data": "CIFAR-10",
            "n": seeds,
            "against": study.against,
            "shared": shared,
            "forms": forms,
        }
        write_result(name, result)
    print(tabulate(name))


def describe(form: str, found: dict[str, Any]) -> str:
    """Return the name of a variant, with its number of seeds and those that diverged, if any did."""
    numbers = [str(one["seed"]) for one in found.get("diverged", [])]  # older results lack it
    return f"{form} (n = {found['n']}; diverged: {', '.join(numbers)})" if numbers else form


def megaflop(run_dir: Path) -> float:
    """Return MFLOP of forward and backward for one image, by torch's counter."""
    config = next(run_dir.glob("seed*/config.yaml"))
    model = ImageClassifier(**yaml.safe_load(config.read_text())["model"])
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / 2e6


def tabulate(name: str) -> str:
    """Format the variants of a study, one row each; bold differences hold after correction over the whole study."""
    result, rows = load_result(name), []
    holding = {key: find_differing(result, key) for key in MEASURES}
    for form, found in result["forms"].items():
        if not found["seeds"]:
            rows.append([describe(form, found), f"{found['megaflop_per_image']:.0f}", *[MISSING] * 5])
            continue
        time = MISSING if result.get("shared") else f"{found['train_seconds']['median']:.0f} s"
        row = [describe(form, found), f"{found['megaflop_per_image']:.0f}", time]
        for key in MEASURES:
            row.append(format_spread(found[key]))
            gap = found.get("difference", {}).get(key)
            row.append(format_interval(gap, form in holding[key]) if gap else "")
        rows.append(row)
    against = {"first": "against the first", "previous": "against the one above"}[result["against"]]
    head = [f"n = {result['n']} each", "MFLOP an image", "training", "without TTA", against, "with TTA", against]
    return format_table(head, rows, result["command"])


def find_differing(result: dict[str, Any], key: str) -> set[str]:
    """Return the variants that differ from their baseline by Welch's t-test at 5 %, with Holm's correction."""
    forms = result["forms"]
    names, found = [*forms], {}
    for place, name in enumerate(names[1:], 1):
        if "difference" not in forms[name]:  # too few seeds are left
            continue
        other = names[0 if result["against"] == "first" else place - 1]
        values = [[seed[key] for seed in forms[one]["seeds"]] for one in (other, name)]
        found[name] = float(stats.ttest_ind(*values, equal_var=False).pvalue)
    differing: set[str] = set()
    for place, name in enumerate(sorted(found, key=found.__getitem__)):
        if found[name] * (len(found) - place) >= 0.05:
            break
        differing.add(name)
    return differing


TABLES = {
    "gates": partial(tabulate, "gates"),
    "gates_jpeg": partial(tabulate, "gates_jpeg"),
    "gate_gradient": partial(tabulate, "gate_gradient"),
    "ladder": partial(tabulate, "ladder"),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--seeds", type=int, default=6, help="of each variant, 0 ... seeds - 1")
    parser.add_argument("--run_dir", type=Path, help="directory of the runs, to resume from")
    parser.add_argument("--shared", action="store_true", help="other jobs shared the machine: no times")
    known, extra = parser.parse_known_args()
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    where = known.run_dir or Path("runs/benchmarks", known.study, now)
    run(known.study, known.root, known.seeds, where, known.shared, extra)
