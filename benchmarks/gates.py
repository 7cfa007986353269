"""Does the gate pay? The recipe `fast` with the report's gate, others, none, and one wide branch, at equal FLOPs.

    python benchmarks/gates.py --root DIR [--seeds N] [--run_dir DIR] [further arguments of fit]

Every form is trained and tested with the same n seeds by ``repeat``; stopped, the same command with the same
``--run_dir`` goes on. Prints one table and writes ``benchmarks/results/gates.json``: every seed, and the difference of
each form from the report's gate with its 95 % interval (Welch).
"""

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

import torch
from step import build
from torch.utils.flop_counter import FlopCounterMode

from lightning_cifar import main
from lightning_cifar.repeat import aligned
from lightning_cifar.results.report import write_json
from lightning_cifar.results.statistics import difference

# One 3x3 branch instead of 3x3, 3x3 and 1x1: at 1.5 times the width it costs the same.
WIDE = {"kernel_sizes": [3], "widths": [48, 96, 192, 240, 272], "gate": "static"}
FORMS = {
    "relu, as reported": {"gate": "relu"},
    "static": {"gate": "static"},
    "one wide branch": WIDE,
    "softmax": {"gate": "softmax"},
    "residual, 1 + delta": {"gate": "residual"},
    "channel, squeeze-and-excite": {"gate": "channel"},
}
MEASURES = ("accuracy_without_tta", "accuracy")


def megaflop(settings: dict[str, object]) -> float:
    """Forward and backward of one image, by torch's counter."""
    _, model = build("fast", model=settings)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / 2e6


def run(root: str, data_name: str, seeds: int, where: Path, extra: list[str]) -> None:
    forms = {}
    for name, settings in FORMS.items():
        options = [word for key, value in settings.items() for word in (f"--model.{key}", json.dumps(value).strip('"'))]
        run_dir = where / name.split(",")[0].replace(" ", "_")
        command = ["repeat", "--recipe", "fast", *options, "--n", str(seeds), *extra]
        print(f"{name}:", flush=True)
        if status := main([*command, "--run_dir", str(run_dir), "--data.dataset", "folder", "--data.root", root]):
            sys.exit(status)
        result = json.loads((run_dir / "repeat.json").read_text())
        result["command"] = " ".join(
            ["python -m lightning_cifar repeat --recipe fast", *options, "--n", str(seeds), *extra]
        )
        for one in result["seeds"]:
            one["run"]["data"].pop("root")
        forms[name] = result | {"megaflop_per_image": megaflop(settings)}
    reference, *_ = forms.values()
    for form in forms.values():
        if form is not reference and seeds > 1:
            values = {key: [[one[key] for one in both["seeds"]] for both in (reference, form)] for key in MEASURES}
            form["difference"] = {key: difference(*both) for key, both in values.items()}
    result = {
        "question": "Does the report's gate pay, at equal FLOPs?",
        "command": " ".join(["python benchmarks/gates.py --root DIR --seeds", str(seeds), *extra]),
        "data": data_name,
        "recipe": "fast",
        "n": seeds,
        "forms": forms,
    }
    write_json(Path(__file__).parent / "results/gates.json", result)
    rows = [["", "MFLOP", "without TTA, %", "with, %", "difference", "95 % interval"]]
    for name, form in forms.items():
        rows.append([name, f"{form['megaflop_per_image']:.0f}"])
        rows[-1] += [f"{100 * form[key]['mean']:.2f} ± {100 * (form[key]['std'] or 0):.2f}" for key in MEASURES]
        cells = ["", ""]
        if found := form.get("difference"):
            low, high = found["accuracy_without_tta"]["interval"]
            cells = [
                f"{100 * found['accuracy_without_tta']['difference']:+.2f}",
                f"{100 * low:+.2f} to {100 * high:+.2f}",
            ]
        rows[-1] += cells
    print(aligned(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the image folder")
    parser.add_argument("--data_name", default="CIFAR-10 (JPEG)", help="what the tables call it")
    parser.add_argument("--seeds", type=int, default=6, help="of each form, 0 ... seeds - 1")
    parser.add_argument("--run_dir", type=Path, help="where the runs are, to go on from")
    known, extra = parser.parse_known_args()
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    run(known.root, known.data_name, known.seeds, known.run_dir or Path("runs/benchmarks/gates") / now, extra)
