"""Cost of resumable checkpoints, durable writes, NaN checks and gate statistics in a healthy run.

    python benchmarks/safety.py --root DIR

DIR is the data directory. Trains the recipe `fast` once (n = 1, CPU or GPU) with a clock around everything in
`PARTS` and writes the sum as a share of the training time to ``benchmarks/results/safety.json``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

from formatting import format_percent, format_table, load_result, print_tables, write_result

from lightning_cifar import LastCheckpoint
from lightning_cifar.commands.fit import fit
from lightning_cifar.run.guards import FiniteLoss, GateStatistics
from lightning_cifar.run.job import parse
from lightning_cifar.run.records import run_json
from lightning_cifar.run.records.run_json import find_cpu_name
from lightning_cifar.run.records.throughput import Throughput
from lightning_cifar.run.settings.precedence import layer
from lightning_cifar.train import checkpoint

RECIPE = "fast"
PARTS = {
    "whether to write last.ckpt, and writing it": (LastCheckpoint, ("on_train_batch_end", "after_step", "after_epoch")),
    "watch for NaN": (FiniteLoss, ("on_train_batch_start", "on_train_batch_end", "check", "check_weights")),
    "checkpoints, written durably with a digest": (checkpoint, ("save_checkpoint",)),
    "run.json, written durably": (run_json, ("write_json",)),
    "statistics of the gates": (GateStatistics, ("on_train_start", "on_train_epoch_end")),
}


class Clock:
    """Seconds by part; calls nested in another part are counted in the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.inside = False

    def watch(self, part: str, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, began = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False
                self.seconds[part] += time.perf_counter() - began

        setattr(owner, name, timed)


def main(root: str) -> None:
    clock = Clock()
    for part, (owner, names) in PARTS.items():
        for name in names:
            clock.watch(part, owner, name)
    options = ["--data.root", root, "--trainer.precision", "bf16-mixed", "--run_dir"]
    with tempfile.TemporaryDirectory() as folder:
        throughput = Throughput()
        fit(parse(layer(["fit", "--recipe", RECIPE, *options, f"{folder}/run"])), [throughput])
    result = {
        "command": "python benchmarks/safety.py --root DIR",
        "recipe": RECIPE,
        "train_seconds": throughput.seconds,
        "seconds": clock.seconds,
        "share": sum(clock.seconds.values()) / throughput.seconds,
        "cpu": find_cpu_name(),
    }
    write_result("safety", result)
    print_tables(TABLES)


def tabulate() -> str:
    result = load_result("safety")
    rows = [[part, f"{seconds:.2f} s"] for part, seconds in result["seconds"].items()]
    rows.append([f"of the training time, {result['train_seconds']:.0f} s", format_percent(result["share"])])
    return format_table([f"a whole run of `{result['recipe']}`", ""], rows, result["command"])


TABLES = {
    "safety": tabulate,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    main(parser.parse_args().root)
