"""What a report tells of runs in numbers: of each measure, mean, spread and 95 % interval over seeds."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning_cifar.commands.report.groups import Group
from lightning_cifar.commands.report.runs import LeftRun

NO_TTA = "without test-time augmentation, %"


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


Measure = Callable[[LeftRun], float | None]
MEASURES: dict[str, tuple[str, Measure]] = {  # name: how it is written, and where it stands
    "test accuracy, %": ("{:.2f}", lambda run: percent(run.test.get("accuracy"))),
    NO_TTA: ("{:.2f}", lambda run: percent(run.test.get("accuracy_without_tta"))),
    "test loss": ("{:.4f}", lambda run: run.test.get("loss")),
    "calibration error": ("{:.4f}", lambda run: run.test.get("calibration_error")),
    "held-out accuracy, last epoch, %": ("{:.2f}", lambda run: percent(run.last("val/accuracy", "test/accuracy"))),
    "held-out loss, last epoch": ("{:.4f}", lambda run: run.last("val/loss", "test/loss")),
    "training accuracy, last epoch, %": ("{:.2f}", lambda run: percent(run.last("train/accuracy_epoch"))),
    "training loss, last epoch": ("{:.4f}", lambda run: run.last("train/loss_epoch")),
    "training time, s": ("{:,.1f}", LeftRun.seconds),
    "images/s": ("{:,.0f}", LeftRun.images_per_second),
}


def measured(groups: Sequence[Group]) -> dict[str, tuple[str, list[list[float]]]]:
    """Of each measure that some run has: how it is written, and the values of each group."""
    found = {}
    for name, (form, of) in MEASURES.items():
        values = [[value for run in group.runs if (value := of(run)) is not None] for group in groups]
        if any(values):
            found[name] = form, values
    if NO_TTA in found and found[NO_TTA] == found["test accuracy, %"]:
        del found[NO_TTA]  # none was used
    return found


def means(groups: Sequence[Group]) -> list[tuple[str, list[dict[str, Any]]]]:
    """A row for each measure: its name, and for each group its mean, and spread where there are several seeds."""
    return [(name, [cell(form, one) for one in values]) for name, (form, values) in measured(groups).items()]


def cell(form: str, values: list[float]) -> dict[str, Any]:
    if len(values) < 2:
        return {"mean": form.format(*values) if values else "", "std": "", "interval": "", "n": len(values)}
    from lightning_cifar.evaluate.statistics import summary  # here, for scipy takes a second

    found = summary(values)
    interval = " to ".join(form.format(end) for end in found["interval"])
    return {"mean": form.format(found["mean"]), "std": form.format(found["std"]), "interval": interval, "n": found["n"]}


def difference(first: Group, second: Group) -> str | None:
    """How much better the second is in the test, where both have seeds enough to say."""
    ours, theirs = (
        [100 * run.test["accuracy"] for run in group.runs if "accuracy" in run.test] for group in (first, second)
    )
    if min(len(ours), len(theirs)) < 2:
        return None
    from lightning_cifar.evaluate.statistics import difference as of_seeds

    found = of_seeds(ours, theirs)
    low, high = found["interval"]
    verdict = "the two can be told apart" if found["distinct"] else "the two cannot be told apart by these seeds"
    return (
        f"Test accuracy of {second.label} less that of {first.label}: {found['difference']:+.2f} points "
        f"(95 % interval {low:+.2f} to {high:+.2f}): {verdict}."
    )


def every_run(groups: Sequence[Group]) -> dict[str, Any] | None:
    """A row for each run, where some are seeds of one configuration."""
    pairs = [(group, run) for group in groups for run in group.runs]
    if len(pairs) == len(groups):
        return None
    columns = measured([Group([run]) for _, run in pairs])
    rows = []
    for place, (group, run) in enumerate(pairs):
        values = [(form, found[place]) for form, found in columns.values()]
        rows.append([group.label, str(run.seed), *(form.format(*one) if one else "" for form, one in values)])
    return {"head": ["", "seed", *columns], "rows": rows}
