"""Writes the tables of ``docs/speed.md`` from ``benchmarks/results/*.json``.

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

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs/speed.md"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def time_to_accuracy(result: dict[str, Any]) -> str:
    rows = [
        [f"seed {run['seed']}", percent(run["accuracy"]), percent(run["accuracy_without_tta"]), seconds(run)]
        for run in result["seeds"]
    ]
    accuracy, plain = (spread(result[name]) for name in ("accuracy", "accuracy_without_tta"))
    rows.append([f"mean, n = {result['n']}", accuracy, plain, f"{result['train_seconds']['mean']:.0f} s"])
    return table(["", "test accuracy", "without test-time augmentation", "training time"], rows)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def spread(summary: dict[str, float]) -> str:
    deviation = f" ± {100 * summary['std']:.2f}" if "std" in summary else ""
    return f"{100 * summary['mean']:.2f}{deviation} %"


def seconds(run: dict[str, float]) -> str:
    return f"{run['train_seconds']:.0f} s"


def plain(result: dict[str, Any]) -> str:
    found = result["plain"]
    speed = f"{found['images_per_second']['median']:,.0f} images/s"
    return table(
        ["the report, written plainly", f"{found['epochs']} epochs, extrapolated", "over the recipe's time"],
        [[speed, f"{found['seconds']:,.0f} s", f"{found['ratio']:.0f}x"]],
    )


def steps(result: dict[str, Any]) -> str:
    rows = []
    for recipe, found in result["steps"].items():
        rest = [f"{kind} {100 * share:.0f} %" for kind, share in found["parts"].items() if kind != "convolutions"]
        rows.append(
            [
                f"`{recipe}`, batch {found['batch_size']}",
                f"{found['megaflop_per_image']:.0f} MFLOP",
                ms(found["step_seconds"]["median"]),
                ms(found["convolutions_seconds"]["median"]),
                f"{found['ratio']:.2f}",
                f"{found['gigaflop_per_second']:.0f}",
                f"{found['convolutions_gigaflop_per_second']:.0f}",
                f"{found['images_per_second']:,.0f}",
                ", ".join(rest),
            ]
        )
    head = ["recipe", "an image", "step", "convolutions alone", "ratio", "GFLOP/s", "alone", "images/s", "the rest"]
    return table(head, rows)


def blocks(result: dict[str, Any]) -> str:
    names = {"reference": "formula written plainly", "fused": "`GatedBlock`", "compiled": "`GatedBlock`, compiled"}
    rows = []
    for precision, found in result["blocks"].items():
        for name, shown in names.items():
            ratio = "" if name == "reference" else f"{found['ratios'][name]:.2f}x"
            rows.append([f"`{precision}`", shown, ms(found["seconds"][name]["median"]), ratio])
    return table(["precision", "five blocks, forward and backward", "time", "speed-up"], rows)


def trainer(result: dict[str, Any]) -> str:
    rows = [
        [way, f"{1000 * found['step_seconds']['median']:.1f} ms", f"{found['ratio']['median']:.3f}"]
        for way, found in result["ways"].items()
    ]
    return table([f"`{result['recipe']}`", "a step", "against the raw loop"], rows)


def data(result: dict[str, Any]) -> str:
    found = result["cpu"]
    ours, theirs = (found["images_per_second"][name]["median"] for name in ("ours", "torchvision"))
    cells = [f"{ours:,.0f} images/s", f"{theirs:,.0f} images/s", f"{found['ratio']['median']:.0f}x"]
    return table(
        ["whole batches", "torchvision, image by image", "ratio", "a batch of 500"],
        [[*cells, f"{found['milliseconds_per_batch']:.1f} ms"]],
    )


def startup(result: dict[str, Any]) -> str:
    return table(
        ["from the start of the process", ""],
        [[f"`{name}`" if name[0] == "-" else name, f"{t['median']:.2f} s"] for name, t in result["seconds"].items()],
    )


TABLES = {
    "fast": ("fast", time_to_accuracy),
    "fast94": ("fast94", time_to_accuracy),
    "plain": ("fast", plain),
    "steps": ("step", steps),
    "blocks": ("step", blocks),
    "trainer": ("trainer", trainer),
    "data": ("data", data),
    "startup": ("startup", startup),
}


def filled(text: str) -> str:
    def fill(found: re.Match[str]) -> str:
        file, make = TABLES[found[1]]
        result = json.loads((HERE / f"results/{file}.json").read_text())
        return f"<!-- {found[1]} -->\n`{result['command']}`\n\n{make(result)}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main(check: bool) -> int:
    written = DOCS.read_text()
    if filled(written) == written:
        return 0
    if check:
        print(f"{DOCS.name} differs from benchmarks/results: python benchmarks/tables.py", file=sys.stderr)
        return 1
    DOCS.write_text(filled(written))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a table differs")
    sys.exit(main(parser.parse_args().check))
