"""Results of ``repeat``: read from its directory, summarised over seeds, compared, and formatted as tables."""

import csv
import math
import re
import statistics
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError, check_range, reason
from lightning_cifar.evaluate.test_results import PREDICTIONS
from lightning_cifar.run.console.columns import align_columns
from lightning_cifar.run.records.stored_files import DAMAGED, check_file, read_json
from lightning_cifar.run.settings.options import SEEDS
from lightning_cifar.run.settings.shell import format_command

HIGHEST = {"%": 1.0, "s": math.inf}  # possible value of a measure, by its unit; none is below 0
SEED_FILE = re.compile(r"seed\d+\.json")  # result of a seed
MEASURES = {  # results of a seed: their name and unit in tables, and the factor to that unit
    "accuracy": ("test accuracy", "%", 100),
    "accuracy_without_tta": ("without TTA", "%", 100),
    "train_seconds": ("training time", "s", 1),  # of the epochs, without validation
    "fit_seconds": ("fit time", "s", 1),  # from the start of training to its end, everything included
}


def find_seeds(run_dir: Path) -> list[Path]:
    """Return the results of seeds in a directory, and no copies of them under other names."""
    return [file for file in run_dir.iterdir() if SEED_FILE.fullmatch(file.name)]


def read_seed(file: Path) -> dict[str, Any]:
    """Read the result of a seed; `InputError` if it is damaged, or of another seed than the file's name says."""
    try:
        run: dict[str, Any] = read_json(file)
        if "diverged" not in run:
            check_measures(run)
            int(run["run"]["data"]["test"])
        check_range("seed", run["seed"], SEEDS, whole=True)
        if f"seed{run['seed']}" != file.stem:
            raise ValueError(f"it is of seed {run['seed']}")
        Path(run["directory"])
    except (OSError, *DAMAGED) as error:
        remedy = "delete it, and run the same command to test this seed again"
        raise InputError(f"{file} is damaged ({type(error).__name__} {reason(error)}): {remedy}") from error
    return run


def check_measures(run: dict[str, Any], file: str = "") -> None:
    """Raise `InputError` unless the measures of a seed are possible numbers; ``file`` begins its message."""
    for key, (_, unit, _) in MEASURES.items():
        check_range(f"{file}{key}", run[key], f"[0, {HIGHEST[unit]:g}]")


def describe_run(run: dict[str, Any]) -> tuple[str, str]:
    """Return the recipe of a seed and the fingerprint of its data; empty if they are unknown."""
    record = run.get("run") or {}
    return str(record.get("recipe") or ""), str((record.get("data") or {}).get("fingerprint") or "")


def format_seed(run: dict[str, Any]) -> str:
    """Return such as ``seed 0: test accuracy 83.83 %, training time 119.21 s``, or that and why it diverged."""
    if "diverged" in run:
        return f"seed {run['seed']} diverged: {run['diverged']}"
    words = [f"{name} {factor * run[key]:.2f} {unit}" for key, (name, unit, factor) in select_measures([run]).items()]
    return f"seed {run['seed']}: " + ", ".join(words)


def select_measures(runs: list[dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    """Return the measures to show: all, without the accuracy without TTA if no run used TTA."""
    same = all(run["accuracy"] == run["accuracy_without_tta"] for run in runs)
    return {key: words for key, words in MEASURES.items() if not (same and key == "accuracy_without_tta")}


def summarise_seeds(runs: list[dict[str, Any]], run_dir: Path, command: list[str]) -> dict[str, Any]:
    """Return the result of ``repeat``: statistics over seeds, and the result of each seed.

    Seeds that diverged have no accuracy: they are in no statistic, but in a list of their own.
    """
    from lightning_cifar.evaluate.statistics import measure_agreement, summarise  # late: scipy takes a second to import

    diverged = [run for run in runs if "diverged" in run]
    runs = [run for run in runs if "diverged" not in run]
    predictions = []
    for run in runs:
        file = run_dir / run["directory"] / PREDICTIONS
        try:
            check_file(file)
            with file.open(newline="", encoding="utf-8") as opened:
                predictions.append([row["prediction"] for row in csv.DictReader(opened)])
            if len(predictions[-1]) != (images := run["run"]["data"]["test"]) or None in predictions[-1]:
                raise ValueError(f"{len(predictions[-1]):,} rows for {images:,} images")
        except (OSError, *DAMAGED) as error:
            remedy = f"delete seed{run['seed']}.json, and run the same command to test this seed again"
            why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__} {reason(error)}"
            raise InputError(f"{file} cannot be read ({why}): {remedy}") from error
    return {
        "command": format_command(*command),
        "n": len(runs),
        **{key: summarise([run[key] for run in runs], (0, HIGHEST[unit])) for key, (_, unit, _) in MEASURES.items()},
        "agreement": measure_agreement(predictions) if len({*map(len, predictions)}) == 1 else None,
        "seeds": runs,
        "diverged": diverged,
    }


def describe_diverged(result: dict[str, Any]) -> str:
    """Return ``1 of 5 seeds diverged, not included in these statistics: 3``; nothing if none did."""
    numbers = [str(run["seed"]) for run in result.get("diverged", [])]  # older results lack it
    if not numbers:
        return ""
    count = f"{len(numbers)} of {len(result['seeds']) + len(numbers)} seeds"
    return f"{count} diverged, not included in these statistics: {', '.join(numbers)}"


def format_summary(result: dict[str, Any]) -> str:
    """Return a table with a row for each measure: mean, standard deviation, interval, extremes."""
    rows = [[f"n = {result['n']}", "mean", "std", "95 % interval", "min", "max"]]
    for key, (name, unit, factor) in select_measures(result["seeds"]).items():
        values = result[key]
        rows.append([f"{name}, {unit}", *(format_values(factor, values[column]) for column in ("mean", "std"))])
        rows[-1] += [format_values(factor, *(values["interval"] or [None]))]
        rows[-1] += [format_values(factor, values[end]) for end in ("min", "max")]
    lines = [align_columns(rows)]
    if (agree := result["agreement"]) is not None:
        lines.append(f"pairs of seeds agree on {agree:.1%} of the images")
    if diverged := describe_diverged(result):
        lines.append(diverged)
    if result["n"] == 2:
        lines.append("two seeds: each interval rests on one difference and is wide; train three or more")
    if len({describe_run(run)[1] for run in result["seeds"]}) > 1:
        lines.append("the fingerprints of the seeds' data differ: these numbers mean little if images were changed")
    return "\n".join(lines)


def format_comparison(first: Path, second: Path) -> str:
    """Return a table of the differences second - first, with 95 % intervals and whether they are significant."""
    from lightning_cifar.evaluate.statistics import compare

    results = [read_result(first), read_result(second)]
    if results[0]["seeds"] == results[1]["seeds"]:
        raise InputError(f"--compare {first} {second}: both hold the same seeds; name two results")
    names = name_results(results, [first, second])
    rows = [[f"{names[1]} - {names[0]}", *names, "difference", "95 % interval", "significant", "seeds needed of each"]]
    for key, (name, unit, factor) in select_measures([run for result in results for run in result["seeds"]]).items():
        values = [[run[key] for run in result["seeds"]] for result in results]
        found = compare(values[0], values[1], HIGHEST[unit])
        rows.append([f"{name}, {unit}", *(format_values(factor, statistics.mean(one)) for one in values)])
        rows[-1] += [format_values(factor, found["difference"]), format_values(factor, *found["interval"])]
        rows[-1] += ["yes" if found["distinct"] else "no", f"{found['seeds_needed'] or 'more than 10,000'}"]
    few = [name for name, result in zip(names, results, strict=True) if len(result["seeds"]) == 2]
    note = f"\n{' and '.join(few)}: only two seeds; the intervals are wide" if few else ""
    data = [{describe_run(run)[1] for run in one["seeds"]} for one in results]
    if data[0] != data[1] and "" not in data[0] | data[1]:
        note += "\nthe fingerprints of their data differ: compare accuracies only if the tested images are the same"
    diverged = zip(names, map(describe_diverged, results), strict=True)
    note += "".join(f"\n{name}: {line}" for name, line in diverged if line)
    return align_columns(rows) + note


def name_results(results: list[dict[str, Any]], paths: list[Path]) -> list[str]:
    """Return the shortest names that differ: the recipes, the last parts of the paths, or the paths."""
    recipes = [describe_run(result["seeds"][0])[0] or str(path) for result, path in zip(results, paths, strict=True)]
    shortest = (recipes, [path.name for path in paths], [*map(str, paths)])
    return next(names for names in shortest if names[0] != names[1])


def read_result(file: Path) -> dict[str, Any]:
    """Read a result of at least two seeds, given by its file or its directory; `InputError` if there is none."""
    try:
        path = file / "repeat.json" if file.is_dir() else file
        result: dict[str, Any] = read_json(path)
        numbers = [float(run[key]) for key in MEASURES for run in result["seeds"]]
        [describe_run(run) for run in result["seeds"]]
        describe_diverged(result)
    except OSError as error:
        is_single = any((file / name).exists() for name in ("config.yaml", "test.json"))
        hint = "; it holds one run: report compares single runs" if is_single else ""
        raise InputError(f"--compare {path} cannot be read: {error.strerror}{hint}") from error
    except DAMAGED as error:
        lacks = f", it lacks {error.args[0]}" if isinstance(error, KeyError) else ""  # a result of another program
        raise InputError(f"--compare {file} is not a result of repeat{lacks}: name its repeat.json") from error
    if (count := len(numbers) // len(MEASURES)) < 2:
        raise InputError(f"--compare {file} must have at least two seeds, got {count}")
    for run in result["seeds"]:
        check_measures(run, f"--compare {file}: ")
    return result


def format_values(factor: int, *values: float | None) -> str:
    return " to ".join("-" if value is None else f"{factor * value:.2f}" for value in values)
