"""Time until the version, help, an error, a first training step, or a report page is there.

    python benchmarks/startup.py --root DIR --run_dir RUN_DIR

DIR is the data directory that has been read before, RUN_DIR a tested run or a ``repeat``. Each command is a
new process, timed from start to exit; the first step is ``fit --recipe fast`` until the end of step 1. Medians of 7
interleaved runs on a CPU; writes ``benchmarks/results/startup.json``.
"""

import argparse
import subprocess
import sys
import tempfile
import time

import torch
from formatting import format_table, keep_median, load_result, print_tables, write_result

from lightning_cifar.run.records.run_json import describe_device

REPEATS = 7
FIRST_STEP = """
import sys, time
from lightning_cifar import ImageClassifier, main
ImageClassifier.on_train_batch_end = lambda *_: print("first step", time.time(), flush=True)
sys.exit(main(sys.argv[1:]))
"""


def time_process(*command: str, status: int = 0) -> float:
    """Return the seconds until the command ends; exit if its status differs."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode != status:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return time.perf_counter() - start


def time_first_step(root: str) -> float:
    with tempfile.TemporaryDirectory() as run_dir:
        options = ["--data.root", root, "--trainer.max_steps", "1"]
        options += ["--run_dir", f"{run_dir}/run"]
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, "fit", "--recipe", "fast", *options],
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("first step"))
        return float(line.split()[-1]) - start


def time_report(run_dir: str) -> float:
    with tempfile.TemporaryDirectory() as output:
        return time_process("-m", "lightning_cifar", "report", run_dir, "--output", output)


def main(root: str, run_dir: str) -> None:
    module = ("-m", "lightning_cifar")
    waits = {
        "--version": lambda: time_process(*module, "--version"),
        "--help": lambda: time_process(*module, "--help"),
        "unknown command": lambda: time_process(*module, "fti", status=2),
        "unknown recipe": lambda: time_process(*module, "fit", "--recipe", "fats", status=2),
        "unknown option": lambda: time_process(*module, "fit", "--trainer.max_epoch", "3", status=2),
        "first training step": lambda: time_first_step(root),
        "report of a run": lambda: time_report(run_dir),
        "import torch, alone": lambda: time_process("-c", "import torch"),
    }
    times: dict[str, list[float]] = {name: [] for name in waits}
    for _ in range(REPEATS):
        for name, wait in waits.items():
            times[name].append(wait())
    result = {
        "question": "How long does one wait: for help, the answer to a typo, a first training step, a report?",
        "command": "python benchmarks/startup.py --root DIR --run_dir RUN_DIR",
        "seconds": {name: keep_median(all_) for name, all_ in times.items()},
        "device": describe_device(torch.device("cpu")),
    }
    write_result("startup", result)
    print_tables(TABLES)


def tabulate() -> str:
    result = load_result("startup")
    rows = [[f"`{name}`" if name[0] == "-" else name, f"{t['median']:.2f} s"] for name, t in result["seconds"].items()]
    return format_table(["from the start of the process", ""], rows, result["command"])


TABLES = {
    "startup": tabulate,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--run_dir", required=True, help="a run that was tested, for report")
    known = parser.parse_args()
    main(known.root, known.run_dir)
