"""``repeat``: train and test n seeds of a recipe, and summarise them: mean, spread, interval.

Seeds are independent, so several machines can share them: start the command once on each, with ``--first_seed`` and
one common ``--run_dir``.
"""

import contextlib
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError, check_range
from lightning_cifar.evaluate.tables import align_columns
from lightning_cifar.files import claim_directory, make_timed_directory
from lightning_cifar.options import Arguments, check_output, last_value
from lightning_cifar.run.settings import format_command, layer, name_settings, quote_path

MEASURES = {  # results of a seed: their name and unit in tables, and the factor to that unit
    "accuracy": ("test accuracy", "%", 100),
    "accuracy_without_tta": ("without TTA", "%", 100),
    "train_seconds": ("training time", "s", 1),  # of the epochs, without validation
    "fit_seconds": ("fit time", "s", 1),  # from the start of training to its end, everything included
}


def parser() -> Arguments:
    arguments = Arguments(
        "repeat",
        description="Train and test n seeds of a recipe, and print mean, standard deviation and 95 % interval.",
        epilog="All options of fit are accepted, except --seed_everything. If the command is stopped, the same command "
        "with the same --run_dir trains the missing seeds.",
    )
    add = arguments.add_argument
    add("--n", type=int, default=5, help="number of seeds; default 5")
    add("--first_seed", type=int, default=0, help="first seed; default 0")
    add("--run_dir", type=Path, help="directory of the seeds, new or to resume")
    add("--output", type=Path, help="file of the result; default RUN_DIR/repeat.json")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="compare two results instead of training")
    return arguments


def main(args: list[str]) -> int:
    """Run ``repeat`` and return the exit status.

    Raises:
        InputError: an option cannot be used.
    """
    parsed, options = parser().parse_known_args(args)
    if parsed.compare:
        if options:
            raise InputError(f"--compare takes two files and no other option, got {options[0]}")
        print(format_comparison(*parsed.compare))
        return 0
    check_range("--n", parsed.n, "[1, inf)")
    check_range("--first_seed", parsed.first_seed, "[0, inf)")
    if last_value(options, "--seed_everything") is not None:
        raise InputError("--seed_everything: repeat sets the seeds; name the first by --first_seed")
    for name in ("--ckpt_path", "--resume"):
        if last_value(options, name) is not None:
            raise InputError(f"{name}: repeat trains every seed from the start; --run_dir resumes an earlier repeat")
    fit = layer(["fit", *options])  # before torch is imported, so that typing errors are reported at once
    is_new = parsed.run_dir is None or not parsed.run_dir.exists()
    run_dir = parsed.run_dir or make_timed_directory(Path("runs/repeat", name_settings(options)))
    output = parsed.output or run_dir / "repeat.json"
    try:
        claim_directory(run_dir, "--run_dir", lambda directory: any(directory.glob("seed*/config.yaml")))
        check_output(output)
        if output.parent != run_dir:
            make_parent(output)
        repeat(fit, options, range(parsed.first_seed, parsed.first_seed + parsed.n), run_dir, output, ["repeat", *args])
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # the directory is not empty
                run_dir.rmdir()
    return 0


def make_parent(output: Path) -> None:
    """Make the directory of ``--output``, so that an error precedes hours of training.

    Raises:
        InputError: the directory cannot be made.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot write to {error.filename}: {error.strerror}; name another file"
        ) from error


def repeat(args: list[str], typed: list[str], seeds: range, run_dir: Path, output: Path, command: list[str]) -> None:
    """Train and test the seeds without a result in ``run_dir``, and summarise all results there.

    Args:
        args: ``fit`` and its options, as `layer` returns them.
        typed: the options as the user typed them.
        seeds: the seeds to train.
        run_dir: directory of all seeds, including those of other processes.
        output: file of the summary.
        command: the command as typed, for the summary.

    Raises:
        InputError: earlier seeds have other settings, or their predictions are missing.
        SystemExit: a signal stopped training.
    """
    from lightning_cifar.commands.repeat.seed import SEED, Shared, run_seed
    from lightning_cifar.files import one_at_a_time, write_json
    from lightning_cifar.run.job import parse
    from lightning_cifar.run.series import refuse_other_settings

    if all((run_dir / f"seed{seed}.json").exists() for seed in seeds):  # otherwise training compares settings
        refuse_other_settings(parse(args), run_dir, SEED)
    print(f"run directory: {run_dir}", flush=True)
    shared = Shared()
    for seed in seeds:
        file = run_dir / f"seed{seed}.json"
        if file.exists():
            print(f"{format_seed(json.loads(file.read_text()))}, from an earlier start", flush=True)
            continue
        try:
            result = run_seed(args, typed, seed, run_dir, shared)
        except SystemExit as stop:
            if stop.code:
                print(
                    f"stopped in seed {seed}; to resume: the same command with --run_dir {quote_path(run_dir)}",
                    file=sys.stderr,
                )
            raise
        write_json(file, result)
        print(format_seed(result), flush=True)
    with one_at_a_time(run_dir / ".sum.lock", "summarises the seeds"):
        runs = [json.loads(file.read_text()) for file in run_dir.glob("seed*.json")]
        summary = summarise_seeds(sorted(runs, key=lambda run: run["seed"]), run_dir, command)
        print(format_summary(summary))
        write_json(output, summary)
    print(f"result: {output}")


def format_seed(run: dict[str, Any]) -> str:
    """Return such as ``seed 0: test accuracy 83.83 %, training time 119.21 s, fit time 120.04 s``."""
    words = [f"{name} {factor * run[key]:.2f} {unit}" for key, (name, unit, factor) in select_measures([run]).items()]
    return f"seed {run['seed']}: " + ", ".join(words)


def select_measures(runs: list[dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    """Return the measures to show: all, without the accuracy without TTA if no run used TTA."""
    same = all(run["accuracy"] == run["accuracy_without_tta"] for run in runs)
    return {key: words for key, words in MEASURES.items() if not (same and key == "accuracy_without_tta")}


def summarise_seeds(runs: list[dict[str, Any]], run_dir: Path, command: list[str]) -> dict[str, Any]:
    """Return the result of ``repeat``: statistics over seeds, and the result of each seed.

    Raises:
        InputError: the predictions of a seed cannot be read.
    """
    from lightning_cifar.evaluate.statistics import measure_agreement, summarise  # late: scipy takes a second to import

    predictions = []
    for run in runs:
        file = run_dir / run["directory"] / "predictions.csv"
        try:
            with file.open(newline="") as opened:
                predictions.append([row["prediction"] for row in csv.DictReader(opened)])
        except OSError as error:
            remedy = f"delete seed{run['seed']}.json, and run the same command to test this seed again"
            raise InputError(f"{file} cannot be read ({error.strerror}): {remedy}") from error
    return {
        "command": format_command(*command),
        "n": len(runs),
        **{key: summarise([run[key] for run in runs]) for key in MEASURES},
        "agreement": measure_agreement(predictions),
        "seeds": runs,
    }


def format_summary(result: dict[str, Any]) -> str:
    """Return a table with a row for each measure: mean, standard deviation, interval, extremes."""
    rows = [[f"n = {result['n']}", "mean", "std", "95 % interval", "min", "max"]]
    for key, (name, unit, factor) in select_measures(result["seeds"]).items():
        values = result[key]
        rows.append([f"{name}, {unit}", *(format_values(factor, values[column]) for column in ("mean", "std"))])
        rows[-1] += [format_values(factor, *(values["interval"] or [None]))]
        rows[-1] += [format_values(factor, values[end]) for end in ("min", "max")]
    agree = result["agreement"]
    return align_columns(rows) + (f"\npairs of seeds agree on {agree:.1%} of the images" if agree is not None else "")


def format_comparison(first: Path, second: Path) -> str:
    """Return a table of the differences B - A, with 95 % intervals and whether they are statistically significant.

    Raises:
        InputError: a file is not a result of `repeat` with at least two seeds.
    """
    from lightning_cifar.evaluate.statistics import compare

    results = [read_result(first), read_result(second)]
    rows = [["B - A", "A", "B", "difference", "95 % interval", "significant", "seeds needed of each"]]
    for key, (name, unit, factor) in select_measures([run for result in results for run in result["seeds"]]).items():
        values = [[run[key] for run in result["seeds"]] for result in results]
        found = compare(*values)
        rows.append([f"{name}, {unit}", *(format_values(factor, statistics.mean(one)) for one in values)])
        rows[-1] += [format_values(factor, found["difference"]), format_values(factor, *found["interval"])]
        rows[-1] += ["yes" if found["distinct"] else "no", f"{found['seeds_needed'] or 'more than 10,000'}"]
    return align_columns(rows)


def read_result(file: Path) -> dict[str, Any]:
    """Read a result of `repeat`.

    Raises:
        InputError: the file is not such a result, or has fewer than two seeds.
    """
    try:
        result: dict[str, Any] = json.loads(file.read_text())
        runs = [[float(run[key]) for key in MEASURES] for run in result["seeds"]]
    except OSError as error:
        raise InputError(f"--compare {file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--compare {file} is not a result of repeat: name its repeat.json") from error
    if len(runs) < 2:
        raise InputError(f"--compare {file} must have at least two seeds, got {len(runs)}")
    return result


def format_values(factor: int, *values: float | None) -> str:
    return " to ".join("-" if value is None else f"{factor * value:.2f}" for value in values)
