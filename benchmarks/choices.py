"""Tables of what was tried on the validation split: runs started by hand.

The commands are in ``report_choices.json``, ``fast_choices.json``, ``accurate_choices.json``, ``cifar10_choices.json``,
``fast94_choices.json`` and ``tuning.json``.
"""

import statistics
from functools import partial
from typing import Any

from formatting import format_percent, format_table, load_result


def tabulate_report_choices() -> str:
    """Format each choice, and batch size 512 (the one taken) after the same number of epochs."""
    choices = {found["choice"]: found for found in load_result("report_choices")["choices"]}

    def late(found: dict[str, Any], epochs: int) -> str:
        return format_percent(sum(found["val_accuracy"][epochs - 3 : epochs]) / 3)

    rows = [
        [choice, f"{found['epochs']}", late(found, found["epochs"]), late(choices["batch size 512"], found["epochs"])]
        for choice, found in choices.items()
    ]
    return format_table(["", "epochs", "validation accuracy, last three", "batch size 512, in the same epochs"], rows)


def tabulate_choices(file: str, group: str) -> str:
    rows = [
        [
            found["choice"],
            f"{found['steps']:,}",
            format_percent(found["val_accuracy"]),
            format_percent(found["val_accuracy_tta"]),
        ]
        for found in load_result(file)[group]
    ]
    return format_table(["", "steps", "validation accuracy", "with test-time augmentation"], rows)


def tabulate_shorter() -> str:
    """Format each choice for a shorter `fast94`: its time, and accuracy and loss without and with TTA."""
    rows = []
    for row in load_result("fast94_choices")["rows"]:
        measures = [(row[f"val_accuracy{kind}"], row[f"val_loss{kind}"]) for kind in ("", "_tta")]
        cells = [cell for accuracy, loss in measures for cell in (format_percent(accuracy), f"{loss:.3f}")]
        rows.append([row["choice"], f"{row['relative_time']:.2f}", *cells])
    head = ["`fast94`, changed", "time", "validation accuracy", "loss", "with test-time augmentation", "loss"]
    return format_table(head, rows)


def tabulate_accurate_choices() -> str:
    rows = []
    for row in load_result("accurate_choices")["rows"]:
        kinds = [row["val_accuracy"], row.get("val_accuracy_mirror"), row["val_accuracy_tta"]]
        rows.append([row["choice"], f"{row['steps']:,}", *(format_percent(share) if share else "" for share in kinds)])
    head = ["", "steps of 250", "validation accuracy", "averaged with the mirror image", "with test-time augmentation"]
    return format_table(head, rows)


def tabulate_step_choices() -> str:
    rows = [
        [row["choice"], f"{row['step']} ms", f"{row['convolutions']} ms", f"{row['step'] / row['convolutions']:.2f}"]
        for row in load_result("fast_choices")["step_milliseconds"]["rows"]
    ]
    return format_table(["a step of 250 images", "whole", "convolutions only", "ratio"], rows)


def tabulate_operations() -> str:
    found = load_result("fast_choices")["operation_milliseconds"]
    rows = [
        [operation, *(f"{form}: {taken:.2f} ms" for form, taken in times.items())]
        for operation, times in found.items()
        if operation != "note"
    ]
    return format_table(["operation, bfloat16", "before", "after"], rows)


def tabulate_tuning(recipe: str) -> str:
    """Format each choice, best first with TTA; its mean over seeds."""
    choices: dict[str, list[dict[str, Any]]] = {}
    for row in load_result("tuning")["rows"][recipe]:
        choices.setdefault(row["choice"], []).append(row)
    rows = []
    for choice, runs in choices.items():
        plain, tta = ([run[key] for run in runs if key in run] for key in ("val_accuracy", "val_accuracy_tta"))
        name = choice if len(plain) == len(runs) else f"{choice}; {len(runs) - len(plain)} of {len(runs)} seeds failed"
        rows.append(
            (
                statistics.mean(tta),
                [name, str(len(plain)), *(f"{100 * statistics.mean(x):.2f} %" for x in (plain, tta))],
            )
        )
    rows.sort(key=lambda row: row[0], reverse=True)
    head = [f"`{recipe}`, changed", "n", "validation accuracy", "with test-time augmentation"]
    return format_table(head, [cells for _, cells in rows])


TABLES = {
    **{
        f"tuning_{recipe}": partial(tabulate_tuning, recipe)
        for recipe in ("report", "fast", "fast94", "accurate", "gpu94")
    },
    "choices_report": tabulate_report_choices,
    "choices_fast": partial(tabulate_choices, "fast_choices", "fast"),
    "choices_fast94": partial(tabulate_choices, "fast_choices", "fast94"),
    "choices_cifar10": partial(tabulate_choices, "cifar10_choices", "rows"),
    "choices_shorter": tabulate_shorter,
    "choices_step": tabulate_step_choices,
    "choices_accurate": tabulate_accurate_choices,
    "operations": tabulate_operations,
}
