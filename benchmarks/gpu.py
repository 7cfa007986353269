"""Time and accuracy of training on one GPU, compared with other fast trainings of CIFAR-10 on the same images.

    python benchmarks/gpu.py --root DIR [--peers FILE ...] [--seconds 520] [--stages NAME ...] [--out FILE] [--dry]

DIR holds ``cifar-10-batches-py``. The stages, most important first:

    card         versions; copies, matrix products and launches
    step         a training step without the Trainer, eager and replayed: wall and host time, kernels
    fits         `gpu94`: replayed, in a bare loop, eager
    peer         the first of ``--peers``, cifar10-airbench's airbench94_muon.py: one run, which compiles for over
                 165 s with torch 2.11, then 8 that count
    seeds        seeds 1 to 7 of `gpu94`
    recipes      `report`, and three seeds of `fast`
    compile      the step with a compiled network, eager and replayed
    second_peer  the second of ``--peers``, such as cifar10-speedrun's cifar10_speedrun.py: 3 counted runs

A stage is skipped if fewer seconds are left than it may need. An error is kept with its row or stage, and the next one
follows, in a new process if the device is lost or a stage hangs. The file is written after every row; its other stages
stay as they are if device, torch and data are the same. Peers run unmodified in a directory that holds the images where
they expect their download, and need the machine for themselves. ``--dry`` tries all stages with tiny sizes, on a CPU
too.
"""

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_fits import measure_fits, measure_recipes, measure_seeds
from gpu_steps import measure_card, measure_compiled, measure_steps
from measurement import Measurement, Stage, restart
from peer_script import measure_peer
from training_step import DEVICE

from lightning_cifar.run.records.run_json import describe_device, find_commit

RESULT = Path(__file__).parent / "results/gpu.json"
STAGES = [
    Stage("card", measure_card, needed=10, limit=60),
    Stage("step", measure_steps, needed=40, limit=200),
    Stage("fits", measure_fits, needed=40, limit=200),
    Stage("peer", partial(measure_peer, number=0, runs=8, limit=300), needed=240, limit=330),
    Stage("seeds", measure_seeds, needed=30, limit=200),
    Stage("recipes", measure_recipes, needed=80, limit=250),
    Stage("compile", measure_compiled, needed=60, limit=250),
    Stage("second_peer", partial(measure_peer, number=1, runs=3, limit=300), needed=60, limit=330),
]


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    header: dict[str, Any] = {
        "question": "How long does training take on a GPU, compared with other fast trainings of CIFAR-10?",
        "command": "python benchmarks/gpu.py --root DIR --peers FILE FILE",
        "data": "CIFAR-10",
        "device": describe_device(DEVICE),
        "torch": torch.__version__,
        "git_commit": find_commit(),
    }
    if options.dry:
        header |= {"data": "digits", "dry": True}
    measurement = Measurement(options.out, options.seconds, header, options, restart)
    stages = [stage for stage in STAGES if stage.name in options.stages]
    measurement.run([stage._replace(needed=0) for stage in stages] if options.dry else stages)
    measurement.report("done")


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("LIGHTNING_CIFAR_DATA", "data"), help="the data directory")
    parser.add_argument("--peers", nargs="*", type=Path, default=[], help="scripts to compare with")
    parser.add_argument("--seconds", type=float, default=520, help="time for all stages")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="*", choices=names, default=names, metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    parser.add_argument("--dry", action="store_true", help="try all stages with tiny sizes")
    options = parser.parse_args(args)
    if options.dry and options.out == RESULT:
        parser.error("--dry would replace the results: name another file by --out")
    options.dataset = "digits" if options.dry else "cifar10"
    if not options.dry and not Path(options.root, "cifar-10-batches-py").is_dir():
        parser.error(f"--root {options.root} holds no cifar-10-batches-py")
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the peers too
    main()
