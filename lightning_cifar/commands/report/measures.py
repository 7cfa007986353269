"""Metrics of runs: mean, standard deviation and 95 % interval over seeds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning_cifar.commands.report.groups import Group
from lightning_cifar.commands.report.runs import SavedRun
from lightning_cifar.evaluate.tables import describe_partial

NO_TTA = "test accuracy without test-time augmentation, %"


def to_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


Measure = Callable[[SavedRun], float | None]
MEASURES: dict[str, tuple[str, Measure]] = {  # name: number format, and how to read the value
    "test accuracy, %": ("{:.2f}", lambda run: to_percent(run.test.get("accuracy"))),
    "balanced test accuracy, %": ("{:.2f}", lambda run: to_percent(run.test.get("balanced_accuracy"))),
    NO_TTA: ("{:.2f}", lambda run: to_percent(run.test.get("accuracy_without_tta"))),
    "images of the partial test": (
        "{:,.0f}",
        lambda run: run.test["images"] if run.test and describe_partial(run.test) else None,
    ),
    "test loss": ("{:.4f}", lambda run: run.test.get("loss")),
    "calibration error": ("{:.4f}", lambda run: run.test.get("calibration_error")),
    "held-out accuracy, last epoch, %": ("{:.2f}", lambda run: to_percent(run.last("val/accuracy", "test/accuracy"))),
    "held-out loss, last epoch": ("{:.4f}", lambda run: run.last("val/loss", "test/loss")),
    "training accuracy, last epoch, %": ("{:.2f}", lambda run: to_percent(run.last("train/accuracy_epoch"))),
    "training loss, last epoch": ("{:.4f}", lambda run: run.last("train/loss_epoch")),
    "training time, s": ("{:,.1f}", SavedRun.seconds),
    "fit time, s": ("{:,.1f}", lambda run: run.fit_seconds),
    "images/s": ("{:,.0f}", SavedRun.images_per_second),
}


def collect_values(groups: Sequence[Group]) -> dict[str, tuple[str, list[list[float]]]]:
    """Return, for each measure that any run has, its number format and the values of each group."""
    found = {}
    for name, (form, read) in MEASURES.items():
        values = [[value for run in group.runs if (value := read(run)) is not None] for group in groups]
        if any(values):
            found[name] = form, values
    if NO_TTA in found and found[NO_TTA] == found["test accuracy, %"]:
        del found[NO_TTA]  # no run used it
    return found


def summarise_groups(groups: Sequence[Group]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return a row for each measure: its name and, for each group, the mean and the spread over seeds."""
    return [
        (name, [format_cell(form, one, 100 if "%" in name else math.inf) for one in values])
        for name, (form, values) in collect_values(groups).items()
    ]


def format_cell(form: str, values: list[float], highest: float) -> dict[str, Any]:
    """Format the mean and the spread of values that are at least 0 and at most ``highest``."""
    if len(values) < 2:
        return {"mean": form.format(*values) if values else "", "std": "", "interval": "", "n": len(values)}
    from lightning_cifar.evaluate.statistics import summarise  # late: scipy takes a second to import

    found = summarise(values, (0, highest))
    interval = " to ".join(form.format(end) for end in found["interval"]) + (" (n = 2)" if len(values) == 2 else "")
    return {"mean": form.format(found["mean"]), "std": form.format(found["std"]), "interval": interval, "n": found["n"]}


def compare_groups(first: Group, second: Group) -> str | None:
    """Return a sentence that compares the test accuracies; None if either has fewer than two seeds."""
    ours, theirs = (
        [100 * run.test["accuracy"] for run in group.runs if "accuracy" in run.test] for group in (first, second)
    )
    if min(len(ours), len(theirs)) < 2:
        return None
    from lightning_cifar.evaluate.statistics import compare

    found = compare(ours, theirs, 100)
    low, high = found["interval"]
    verdict = "" if found["distinct"] else "not "
    return (
        f"Test accuracy of {second.label} minus that of {first.label}: {found['difference']:+.2f} points "
        f"(95 % interval {low:+.2f} to {high:+.2f}), {verdict}statistically distinguishable at these numbers of seeds."
    )


def tabulate_runs(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Return a table with a row for each run; None if every group is a single run."""
    pairs = [(group, run) for group in groups for run in group.runs]
    if len(pairs) == len(groups):
        return None
    columns = collect_values([Group([run]) for _, run in pairs])
    rows = []
    for place, (group, run) in enumerate(pairs):
        values = [(form, found[place]) for form, found in columns.values()]
        rows.append([group.label, str(run.seed), *(form.format(*one) if one else "" for form, one in values)])
    return {"head": ["", "seed", *columns], "rows": rows}
