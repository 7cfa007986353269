"""Writes the tables of README.md and docs/ from ``benchmarks/results/*.json``.

    python benchmarks/tables.py [--check]

A table stands between ``<!-- NAME -->`` and ``<!-- end -->``; ``--check`` changes nothing and fails where one differs.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scipy import stats

from lightning_cifar.evaluate.statistics import difference, summary

HERE = Path(__file__).parent
ROOT = HERE.parent
MEASURES = ("accuracy_without_tta", "accuracy")  # of every seed that `repeat` has trained
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"results/{name}.json").read_text())


def table(head: list[str], rows: Iterable[list[str]], command: str | None = None) -> str:
    lines = [f"`{command}`", ""] if command else []
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)])


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def spread(summary: dict[str, float]) -> str:
    mean, std = summary["mean"], summary.get("std")
    return percent(mean) if std is None else f"{100 * mean:.2f} ± {percent(std)}"


def results() -> str:
    """The recipes, one row each."""
    report = load("report")
    epochs, minutes = report["final"]["epoch"], report["wall_seconds"] / 60
    seeds = summary(report_seeds())
    rows = [
        ["the report itself", "CIFAR-10", "83.5 %", "", "1", "30", "not stated"],
        ["`report`", report["data"], spread(seeds), "", f"{seeds['n']}", f"{epochs}", f"{minutes:.0f} min"],
    ]
    rows += [repeated(f"`{name}`", name) for name in ("fast", "fast94", "accurate")]
    return table(["recipe", *REPEATED], rows)


REPEATED = ["data", "test accuracy", "with test-time augmentation", "n", "epochs", "training time"]


def repeated(label: str, name: str) -> list[str]:
    """What ``repeat`` found, by `REPEATED`."""
    found = load(name)
    epochs = found["seeds"][0]["steps"] * 250 / 50_000
    accuracies = [spread(found[key]) for key in MEASURES]
    minutes = found["train_seconds"]["median"] / 60
    return [label, found["data"], *accuracies, f"{found['n']}", f"{epochs:.2g}", f"{minutes:.2g} min"]


def accurate_forms() -> str:
    """What `accurate` was before, and is."""
    forms = {
        "accurate_before": "one network",
        "accurate_alone": "one network, flip-equivariant, crops by 2 instead of 4",
        "accurate": "two networks of half the cost, flip-equivariant: `accurate`",
    }
    return table(["form", *REPEATED], [repeated(label, name) for name, label in forms.items()])


def recipe_steps() -> str:
    """What each recipe gains over the one before it, and costs."""
    first = summary(report_seeds())
    rows = [["`report`", f"{first['n']}", f"{load('report')['wall_seconds'] / 60:.0f} min", spread(first), "", "", ""]]
    before = {"accuracy_without_tta": report_seeds()}
    for name in ("fast", "fast94", "accurate"):
        found = load(name)
        minutes = f"{found['train_seconds']['median'] / 60:.2g} min"
        rows.append([f"`{name}`", f"{found['n']}", minutes, *gains(found, before)])
        before = shares(found)
    against = "against the one above"
    return table(["recipe", "n", "training", "without TTA", against, "with TTA", against], rows)


def shares(found: dict[str, Any]) -> dict[str, list[float]]:
    """Both accuracies of every seed that ``repeat`` has trained."""
    return {key: [seed[key] for seed in found["seeds"]] for key in MEASURES}


def gains(found: dict[str, Any], before: dict[str, list[float]]) -> list[str]:
    """Both accuracies, and by how much each differs from those ``before``, where there is such."""
    cells = []
    for key, values in shares(found).items():
        gap = difference(before[key], values) if key in before else None
        cells += [spread(found[key]), interval(gap, gap["distinct"]) if gap else ""]
    return cells


def gates_longer() -> str:
    """`fast94` without gates, against itself."""
    gated, plain = load("fast94"), load("fast94_ungated")
    rows = [
        ["ReLU, as reported", f"{gated['n']}", *gains(gated, {})],
        ["none: the sum of three branches", f"{plain['n']}", *gains(plain, shares(gated))],
    ]
    against = "against the first"
    return table(["`fast94`", "n", "without TTA", against, "with TTA", against], rows, plain["command"])


def report_seeds() -> list[float]:
    """Test accuracy of each seed: of the first by benchmarks/report.py, of the others by ``repeat``."""
    return [load("report")["test"]["accuracy"], *(one["accuracy"] for one in load("report_seeds")["seeds"])]


def report_others() -> str:
    others, shares = load("report_seeds"), report_seeds()
    found = summary(shares)
    low, high = found["interval"]
    cells = [percent(share) for share in shares]
    numbers = [0, *(one["seed"] for one in others["seeds"])]
    head = [*(f"seed {number}" for number in numbers), "mean ± std", "95 % interval"]
    cells += [spread(found), f"{percent(low)} to {percent(high)}"]
    return table(head, [cells], others["command"])


def report_run() -> str:
    """What the report tells of its run, and this one of its own."""
    found = load("report")
    last, before = found["final"], [epoch["test/accuracy"] for epoch in found["epochs"][-11:-1]]
    rows = [
        ["the report, CIFAR-10", "83.5 %", "", "", "0.319", "88.9 %", ""],
        [
            f"`report`, {found['data']}",
            percent(found["test"]["accuracy"]),
            f"{percent(min(before))} to {percent(max(before))}, on average {percent(sum(before) / len(before))}",
            f"{found['test']['loss']:.3f}",
            f"{last['train/loss_epoch']:.3f}",
            f"{100 * last['train/accuracy_epoch']:.1f} %",
            f"{found['images_per_second']:,.0f}",
        ],
    ]
    head = ["n = 1", "test accuracy", "in the ten epochs before", "test loss", "training loss", "training accuracy"]
    return table([*head, "images/s"], rows, found["command"])


def report_choices() -> str:
    """Each choice, and what batch size 512, which was taken, had where it was stopped."""
    choices = {found["choice"]: found for found in load("report_choices")["choices"]}

    def late(found: dict[str, Any], epochs: int) -> str:
        return percent(sum(found["val_accuracy"][epochs - 3 : epochs]) / 3)

    rows = [
        [choice, f"{found['epochs']}", late(found, found["epochs"]), late(choices["batch size 512"], found["epochs"])]
        for choice, found in choices.items()
    ]
    return table(["", "epochs", "validation accuracy, last three", "batch size 512, in the same epochs"], rows)


def time_to_accuracy(recipe: str) -> str:
    found = load(recipe)
    rows = [
        [
            f"seed {run['seed']}",
            percent(run["accuracy"]),
            percent(run["accuracy_without_tta"]),
            f"{run['train_seconds']:.0f} s",
        ]
        for run in found["seeds"]
    ]
    accuracy, plain = (spread(found[name]) for name in ("accuracy", "accuracy_without_tta"))
    rows.append(
        [f"mean ± std, median time, n = {found['n']}", accuracy, plain, f"{found['train_seconds']['median']:.0f} s"]
    )
    head = ["", "test accuracy", "without test-time augmentation", "training time"]
    return table(head, rows, found["command"])


def plain() -> str:
    found = load("fast")["plain"]
    speed = f"{found['images_per_second']['median']:,.0f} images/s"
    head = ["the report, written plainly", f"{found['epochs']} epochs, extrapolated", "over `fast`"]
    return table(head, [[speed, f"{found['seconds']:,.0f} s", f"{found['ratio']:.0f}x"]])


def milliseconds(found: dict[str, float]) -> str:
    return f"{1000 * found['median']:,.0f} ms"


def steps() -> str:
    result, rows = load("step"), []
    for recipe, found in result["steps"].items():
        rest = [f"{kind} {100 * share:.0f} %" for kind, share in found["parts"].items() if kind != "convolutions"]
        rows.append(
            [
                f"`{recipe}`, batch {found['batch_size']}",
                f"{found['megaflop_per_image']:.0f} MFLOP",
                milliseconds(found["step_seconds"]),
                milliseconds(found["convolutions_seconds"]),
                f"{found['ratio']:.2f}",
                f"{found['gigaflop_per_second']:.0f}",
                f"{found['convolutions_gigaflop_per_second']:.0f}",
                f"{found['images_per_second']:,.0f}",
                ", ".join(rest),
            ]
        )
    head = ["recipe", "an image", "step", "convolutions alone", "ratio", "GFLOP/s", "alone", "images/s", "the rest"]
    return table(head, rows, result["command"])


def compilations() -> str:
    rows = []
    for recipe, found in load("step")["compilations"].items():
        after = found["pays_after_steps"]
        rows.append(
            [
                f"`{recipe}`",
                f"{found['first_step_seconds']:.0f} s",
                milliseconds(found["eager_step_seconds"]),
                milliseconds(found["step_seconds"]),
                f"{found['ratio']:.2f}x",
                f"{after:,.0f} steps" if after else "never",
            ]
        )
    return table(["`--model.compile true`", "first step", "eager step", "compiled", "speed-up", "pays after"], rows)


def blocks() -> str:
    rows = [
        [
            f"`{precision}`",
            milliseconds(found["reference_seconds"]),
            milliseconds(found["fused_seconds"]),
            f"{found['ratio']:.2f}x",
        ]
        for precision, found in load("step")["blocks"].items()
    ]
    return table(["five blocks, forward and backward", "formula written plainly", "`GatedBlock`", "speed-up"], rows)


def trainer() -> str:
    result, rows = load("trainer"), []
    for way, found in result["sizes"]["fast"].items():
        added, ratio = result["added_seconds_per_step"][way], result["ratio_from_added"][way]
        measured = f"{1000 * found['step_seconds']['median']:.0f} ms"
        rows.append([way, measured, f"{found['ratio']['median']:.3f}", f"{1000 * added:.1f} ms", f"{ratio:.3f}"])
    head = [f"`{result['recipe']}`", "a step", "median of pairs", "added to a tiny step", "that over the raw step"]
    return table(head, rows, result["command"])


def data() -> str:
    result = load("data")
    found = result["cpu"]
    ours, theirs = (f"{found['images_per_second'][name]['median']:,.0f} images/s" for name in ("ours", "torchvision"))
    cells = [ours, theirs, f"{found['ratio']['median']:.0f}x", f"{found['milliseconds_per_batch']:.1f} ms"]
    head = ["whole batches", "torchvision, image by image", "ratio", "a batch of 500"]
    return table(head, [cells], result["command"])


def startup() -> str:
    result = load("startup")
    rows = [[f"`{name}`" if name[0] == "-" else name, f"{t['median']:.2f} s"] for name, t in result["seconds"].items()]
    return table(["from the start of the process", ""], rows, result["command"])


def choices(recipe: str) -> str:
    rows = [
        [found["choice"], f"{found['steps']:,}", percent(found["val_accuracy"]), percent(found["val_accuracy_tta"])]
        for found in load("fast_choices")[recipe]
    ]
    return table(["", "steps", "validation accuracy", "with test-time augmentation"], rows)


def accurate_choices() -> str:
    rows = []
    for row in load("accurate_choices")["rows"]:
        kinds = [row["val_accuracy"], row.get("val_accuracy_mirror"), row["val_accuracy_tta"]]
        rows.append([row["choice"], f"{row['steps']:,}", *(percent(share) if share else "" for share in kinds)])
    head = ["", "steps of 250", "validation accuracy", "averaged with the mirror image", "with test-time augmentation"]
    return table(head, rows)


def step_choices() -> str:
    rows = [
        [row["choice"], f"{row['step']} ms", f"{row['convolutions']} ms", f"{row['step'] / row['convolutions']:.2f}"]
        for row in load("fast_choices")["step_milliseconds"]["rows"]
    ]
    return table(["a step of 250 images", "whole", "convolutions alone", "ratio"], rows)


def operations() -> str:
    found = load("fast_choices")["operation_milliseconds"]
    rows = [
        [operation, *(f"{form}: {taken:.2f} ms" for form, taken in times.items())]
        for operation, times in found.items()
        if operation != "note"
    ]
    return table(["operation, bfloat16", "before", "after"], rows)


def study(name: str) -> str:
    """Its forms, a row each; differences in bold that hold when all forms of the study are judged together."""
    result, rows = load(name), []
    holding = {key: distinct(result, key) for key in MEASURES}
    for form, found in result["forms"].items():
        row = [form, f"{found['megaflop_per_image']:.0f}", f"{found['train_seconds']['median']:.0f} s"]
        for key in MEASURES:
            row.append(spread(found[key]))
            gap = found.get("difference", {}).get(key)
            row.append(interval(gap, form in holding[key]) if gap else "")
        rows.append(row)
    against = {"first": "against the first", "previous": "against the one above"}[result["against"]]
    head = [f"n = {result['n']} each", "MFLOP an image", "training", "without TTA", against, "with TTA", against]
    return table(head, rows, result["command"])


def distinct(result: dict[str, Any], key: str) -> set[str]:
    """The forms of a study that differ from theirs by Welch's t-test at 5 %, corrected for their number after Holm."""
    forms = result["forms"]
    names, found = [*forms], {}
    for place, name in enumerate(names[1:], 1):
        other = names[0 if result["against"] == "first" else place - 1]
        values = [[seed[key] for seed in forms[one]["seeds"]] for one in (other, name)]
        found[name] = float(stats.ttest_ind(*values, equal_var=False).pvalue)
    differing: set[str] = set()
    for place, name in enumerate(sorted(found, key=found.__getitem__)):
        if found[name] * (len(found) - place) >= 0.05:
            break
        differing.add(name)
    return differing


def interval(gap: dict[str, Any], bold: bool) -> str:
    """Points of difference, and their 95 % interval."""
    low, high = gap["interval"]
    text = f"{100 * gap['difference']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    return f"**{text}**" if bold else text


def faults() -> str:
    """What was survived, and how often; each signal in one row with the moments that it came at."""
    result, rows, moments = load("faults"), [], {}
    for fault, found in result["faults"].items():
        lost = found.get("lost_steps")
        cells = [f"{found['times']:,}", {None: "", 0: "nothing", 1: "1 step at most"}[lost]]
        signal, _, moment = fault.partition(" in ")
        if signal in ("SIGINT", "SIGTERM"):
            moments.setdefault((signal, *cells), []).append(moment)
        else:
            rows.append([fault, *cells])
    ended = [
        [f"{signal} in: {'; '.join(when)}", f"{times} each", lost] for (signal, times, lost), when in moments.items()
    ]
    return table(["fault", "times", "lost"], ended + rows, result["command"])


def safety() -> str:
    result = load("safety")
    rows = [[part, f"{seconds:.2f} s"] for part, seconds in result["seconds"].items()]
    rows.append([f"of the training time, {result['train_seconds']:.0f} s", percent(result["share"])])
    return table([f"a whole run of `{result['recipe']}`", ""], rows, result["command"])


def distributed() -> str:
    result, rows = load("distributed"), []
    for recipe, found in result["difference"].items():
        row = [f"`{recipe}`"]
        for how in ("two_processes_float64", "two_processes", "two_threads"):
            row.append(f"{found[how]['all']:.0e} ({found[how]['worst']:.0e})" if how in found else "not measured")
        rows.append(row)
    head = ["all weights (the worst tensor)", "two processes, float64", "float32", "two threads, float32"]
    return table(head, rows, result["command"])


def distributed_accuracy() -> str:
    result = load("distributed")
    right, speed = result["right_answers"], result["throughput"]
    head = ["", "1 process", "2 processes", "3 processes"]
    rows = [["test images classified rightly", *(f"{right[count]:,}" for count in ("1", "2", "3"))]]
    one, two = (f"{speed['median'][name]:,.0f} images/s" for name in ("one process, two threads", "two processes"))
    rows.append(["`fast94` on two cores", f"{one} by two threads", f"{two} ({speed['ratio']:.2f}x)", ""])
    return table(head, rows)


def export() -> str:
    result, rows = load("export"), []
    files = {"ONNX Runtime, float32": "onnx", "ONNX Runtime, int8": "onnx, int8", "torch, float32": "safetensors"}
    for way, found in result["ways"].items():
        size = f"{result['bytes'][files[way]] / 1e6:.1f} MB" if way in files else ""
        speed = [f"{found['images_per_second'][batch]['median']:,.0f} images/s" for batch in ("256", "1")]
        rows.append([way, size, *speed, percent(found["accuracy"]), percent(found["same_class"])])
    head = [result["data"], "file", "batches of 256", "of 1", "accuracy", "same class as torch, float32"]
    return table(head, rows, result["command"])


def own_images() -> str:
    result, rows = load("predict"), []
    for form, found in result["forms"].items():
        speed = f"{found['images_per_second']['median']:,.0f} images/s"
        rows.append([form, speed, f"{found['ratio']:.2f}x", f"{found['other_classes']:,}"])
    head = [f"{result['files']:,} files", "speed", "over one by one", "other class than one by one"]
    return table(head, rows, result["command"])


def corruptions() -> str:
    result = load("corruptions")
    rows = [
        [name, *map(percent, found), percent(sum(found) / len(found))] for name, found in result["corruptions"].items()
    ]
    head = [f"{result['data']}, corrupted", *(f"severity {number}" for number in range(1, 6)), "mean"]
    return table(head, rows, result["command"])


def gpu_stages() -> str:
    rows = []
    for batch, found in load("gpu_first")["stages"].items():
        stages = [f"{time:.1f} ms" for time in found["milliseconds"].values()]
        rows.append([batch, f"{found['step_milliseconds']:.0f} ms", *stages])
    head = ["`fast94`, batches of", "a step", "augmentation", "forward", "metrics", "backward", "optimiser"]
    return table(head, rows)


def gpu_batches() -> str:
    rows = [
        [found["batch"], f"{found['steps']:,}", percent(found["val_accuracy"]), percent(found["val_accuracy_tta"])]
        for found in load("gpu_first")["validated"]
    ]
    head = ["`fast94`, batches of", "steps", "validation accuracy", "with test-time augmentation"]
    return table(head, rows)


def evidence() -> str:
    """All files, and what makes them."""
    rows = []
    for file in sorted((HERE / "results").glob("*.json")):
        command = load(file.stem).get("command")
        link = f"[`{file.name}`](../benchmarks/results/{file.name})"
        rows.append([link, f"`{command}`" if command else "the commands that it holds"])
    return table(["file", "made by"], rows)


TABLES = {
    "accurate_forms": accurate_forms,
    "corruptions": corruptions,
    "evidence": evidence,
    "export": export,
    "faults": faults,
    "gates": lambda: study("gates"),
    "gates_longer": gates_longer,
    "gpu_batches": gpu_batches,
    "gpu_stages": gpu_stages,
    "own_images": own_images,
    "safety": safety,
    "distributed": distributed,
    "distributed_accuracy": distributed_accuracy,
    "ladder": lambda: study("ladder"),
    "recipe_steps": recipe_steps,
    "report_run": report_run,
    "report_seeds": report_others,
    "results": results,
    "fast": lambda: time_to_accuracy("fast"),
    "fast94": lambda: time_to_accuracy("fast94"),
    "plain": plain,
    "choices_report": report_choices,
    "choices_fast": lambda: choices("fast"),
    "choices_fast94": lambda: choices("fast94"),
    "choices_step": step_choices,
    "choices_accurate": accurate_choices,
    "operations": operations,
    "steps": steps,
    "compilations": compilations,
    "blocks": blocks,
    "trainer": trainer,
    "data": data,
    "startup": startup,
}


def filled(text: str) -> str:
    """The page with its tables as the evidence has them."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main(check: bool) -> int:
    differing = [page for page in PAGES if filled(page.read_text()) != page.read_text()]
    for page in differing:
        if check:
            print(f"{page.name} differs from benchmarks/results: run python benchmarks/tables.py", file=sys.stderr)
        else:
            page.write_text(filled(page.read_text()))
    return int(check and bool(differing))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a table differs")
    sys.exit(main(parser.parse_args().check))
