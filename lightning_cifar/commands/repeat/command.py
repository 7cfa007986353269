"""``repeat``: one recipe with n seeds, each trained by ``fit`` and tested once, and what they say together.

Seeds are independent, so many machines share the work by seed: the engine that starts processes (a scheduler's array
job, a shell loop over GPUs) gives each a ``--first_seed`` and all of them one ``--run_dir``.
"""

import contextlib
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.evaluate.tables import align_columns
from lightning_cifar.files import has_files
from lightning_cifar.options import Arguments, check_output, option
from lightning_cifar.run.settings import layered, own_run_dir

MEASURES = {  # what a seed gives: its name and unit in tables, and the factor to that unit
    "accuracy": ("test accuracy", "%", 100),
    "accuracy_without_tta": ("without TTA", "%", 100),
    "train_seconds": ("training time", "s", 1),
}


def parser() -> Arguments:
    arguments = Arguments(
        "repeat",
        description=__doc__.splitlines()[0],
        epilog="Every option of fit may follow, but for --seed_everything. Stopped, the same command with the same "
        "--run_dir trains the seeds that are missing.",
    )
    arguments.add_argument("--n", type=int, default=5, help="how many seeds; default 5")
    arguments.add_argument("--first_seed", type=int, default=0, help="the first of them; default 0")
    arguments.add_argument("--run_dir", type=Path, help="a directory of this command, new or its own from before")
    arguments.add_argument("--output", type=Path, help="where to write the result; default RUN_DIR/repeat.json")
    arguments.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A", "B"), help="of two such results: can they be told apart?"
    )
    return arguments


def main(args: list[str]) -> int:
    """Runs ``repeat`` with these arguments and returns the exit status.

    Raises:
        InputError: bad arguments.
    """
    own, rest = parser().parse_known_args(args)
    if own.compare:
        if rest:
            raise InputError(f"--compare takes two files and no other option, got {rest[0]}")
        print(format_comparison(*own.compare))
        return 0
    if own.n < 1 or own.first_seed < 0:
        raise InputError(f"--n must be at least 1 and --first_seed at least 0, got {own.n} and {own.first_seed}")
    if option(rest, "--seed_everything") is not None:
        raise InputError("--seed_everything: repeat sets the seeds; name the first by --first_seed")
    for name in ("--ckpt_path", "--resume"):
        if option(rest, name) is not None:
            raise InputError(f"{name}: repeat trains every seed from the start; --run_dir goes on with its own")
    fit = layered(["fit", *rest])  # before torch is imported: typos are answered at once
    is_new = own.run_dir is None or not own.run_dir.exists()
    run_dir = own.run_dir or own_run_dir("repeat", rest)
    output = own.output or run_dir / "repeat.json"
    try:
        check_directories(run_dir, output)
        repeat(fit, rest, range(own.first_seed, own.first_seed + own.n), run_dir, output, ["repeat", *args])
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                run_dir.rmdir()
    return 0


def check_directories(run_dir: Path, output: Path) -> None:
    """Before hours of training: whether their results can be written.

    Raises:
        InputError: they cannot, or ``run_dir`` holds something else than seeds.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if has_files(run_dir) and not any(run_dir.glob("seed*/config.yaml")):
            raise InputError(f"--run_dir {run_dir} is in use, and not by repeat")
        check_output(output)
        if output.parent != run_dir:
            output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}") from error


def repeat(args: list[str], typed: list[str], seeds: range, run_dir: Path, output: Path, command: list[str]) -> None:
    """Trains and tests the seeds that have no result in ``run_dir`` yet, and sums up all that have one.

    Args:
        args: what `layered` gives for ``fit`` with the options ``typed``, which all seeds have.
        typed: these.
        seeds: the ones to train.
        run_dir: of all seeds, of other processes too.
        output: where to write what they say together.
        command: what was typed, for the record.

    Raises:
        InputError: seeds there were trained with other settings, or have lost their predictions.
    """
    from lightning_cifar.commands.repeat.seed import SeedRun
    from lightning_cifar.files import one_at_a_time
    from lightning_cifar.run.record import write_json
    from lightning_cifar.run.series import SameSettings

    if all((run_dir / f"seed{seed}.json").exists() for seed in seeds):  # else the first that is trained is held to it
        SameSettings(args, run_dir, SeedRun.word)
    print(f"run directory: {run_dir}", flush=True)
    earlier: SeedRun | None = None
    for seed in seeds:
        file = run_dir / f"seed{seed}.json"
        if file.exists():
            print(f"{line(json.loads(file.read_text()))}, from before", flush=True)
            continue
        try:
            earlier = SeedRun(args, typed, seed, run_dir, earlier)
        except SystemExit as stop:
            if stop.code:
                print(f"stopped in seed {seed}; to go on: the same command with --run_dir {run_dir}", file=sys.stderr)
            raise
        write_json(file, earlier.result)
        print(line(earlier.result), flush=True)
    with one_at_a_time(run_dir / ".sum.lock", "sums up"):
        runs = [json.loads(file.read_text()) for file in run_dir.glob("seed*.json")]
        result = summed_up(sorted(runs, key=lambda run: run["seed"]), run_dir, command)
        print(format_summary(result))
        write_json(output, result)
    print(f"result: {output}")


def line(run: dict[str, Any]) -> str:
    """``seed 0: test accuracy 83.83 %, without TTA 83.19 %, training time 119.21 s``."""
    words = [f"{name} {factor * run[key]:.2f} {unit}" for key, (name, unit, factor) in shown([run]).items()]
    return f"seed {run['seed']}: " + ", ".join(words)


def shown(runs: list[dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    """The measures worth telling: not the accuracy without augmentation where none was used."""
    same = all(run["accuracy"] == run["accuracy_without_tta"] for run in runs)
    return {key: words for key, words in MEASURES.items() if not (same and key == "accuracy_without_tta")}


def summed_up(runs: list[dict[str, Any]], run_dir: Path, command: list[str]) -> dict[str, Any]:
    from lightning_cifar.evaluate.statistics import agreement, summary

    predictions = []
    for run in runs:
        file = run_dir / run["directory"] / "predictions.csv"
        try:
            with file.open(newline="") as opened:
                predictions.append([row["prediction"] for row in csv.DictReader(opened)])
        except OSError as error:
            again = f"without seed{run['seed']}.json the same command tests this seed again"
            raise InputError(f"{file} cannot be read ({error.strerror}): {again}") from error
    return {
        "command": " ".join(["python -m lightning_cifar", *command]),
        "n": len(runs),
        **{key: summary([run[key] for run in runs]) for key in MEASURES},
        "agreement": agreement(predictions),
        "seeds": runs,
    }


def format_summary(result: dict[str, Any]) -> str:
    """A row for each measure: mean, spread, interval, extremes."""
    rows = [[f"n = {result['n']}", "mean", "std", "95 % interval", "min", "max"]]
    for key, (name, unit, factor) in shown(result["seeds"]).items():
        values = result[key]
        rows.append([f"{name}, {unit}", *(written(factor, values[column]) for column in ("mean", "std"))])
        rows[-1] += [written(factor, *(values["interval"] or [None]))]
        rows[-1] += [written(factor, values[end]) for end in ("min", "max")]
    agree = result["agreement"]
    return align_columns(rows) + (f"\ntwo seeds agree on {agree:.1%} of the images" if agree is not None else "")


def format_comparison(first: Path, second: Path) -> str:
    """How much more ``second`` gives than ``first``, and whether that can be told from chance."""
    from lightning_cifar.evaluate.statistics import difference

    results = [read_result(first), read_result(second)]
    rows = [["B - A", "A", "B", "difference", "95 % interval", "told apart", "seeds of each it takes"]]
    for key, (name, unit, factor) in shown([run for result in results for run in result["seeds"]]).items():
        values = [[run[key] for run in result["seeds"]] for result in results]
        found = difference(*values)
        rows.append([f"{name}, {unit}", *(written(factor, statistics.mean(one)) for one in values)])
        rows[-1] += [written(factor, found["difference"]), written(factor, *found["interval"])]
        rows[-1] += ["yes" if found["distinct"] else "no", f"{found['seeds_needed'] or 'more than 10,000'}"]
    return align_columns(rows)


def read_result(file: Path) -> dict[str, Any]:
    """A file that `repeat` wrote.

    Raises:
        InputError: it is none, or has one seed alone, which has no spread.
    """
    try:
        result: dict[str, Any] = json.loads(file.read_text())
        runs = [[float(run[key]) for key in MEASURES] for run in result["seeds"]]
    except OSError as error:
        raise InputError(f"--compare {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--compare {file} is no result of repeat") from error
    if len(runs) < 2:
        raise InputError(f"--compare {file}: it takes two seeds at least to compare, this has {len(runs)}")
    return result


def written(factor: int, *values: float | None) -> str:
    return " to ".join("-" if value is None else f"{factor * value:.2f}" for value in values)
