"""The report of runs: one self-contained HTML page, and its figures as PNGs. Imports no torch."""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_cifar.commands.report.groups import Group, group_runs, select_settings
from lightning_cifar.commands.report.measures import compare_groups, summarise_groups, tabulate_runs
from lightning_cifar.commands.report.pooled import pool_tests
from lightning_cifar.commands.report.runs import SavedRun
from lightning_cifar.errors import InputError, reason
from lightning_cifar.evaluate.charts import PANELS, list_panels
from lightning_cifar.files import write_whole
from lightning_cifar.run.directory import UNFINISHED
from lightning_cifar.run.figures.curves import plot_accuracies, plot_losses
from lightning_cifar.run.figures.fonts import choose_fonts, make_drawable, shorten
from lightning_cifar.run.figures.png import format_data_uri, render_figure
from lightning_cifar.run.records.stored_files import DAMAGED, read_json
from lightning_cifar.run.settings.shell import format_command, list_trust

PAGE = "report.html"
MARK = UNFINISHED.format("report")
CURVES = {"loss": plot_losses, "accuracy": plot_accuracies}
FIGURE = re.compile(rf"({'|'.join(CURVES)}|({'|'.join(PANELS)})(-\d+)?)\.png")


def write_report(runs: Sequence[SavedRun], output: Path) -> Path:
    """Write the page and its PNGs to the directory ``output``, which must exist; return the page's path.

    Figures of an earlier report there are deleted.
    """
    if holds_report(output):
        for file in [one for one in output.iterdir() if FIGURE.fullmatch(one.name)]:
            file.unlink()
    groups = group_runs(runs)
    tests = [draw_tests(group, number, output) for number, group in enumerate(groups, 1)]
    text = load_template().render(
        title=", ".join(group.label for group in groups),
        groups=groups,
        means=summarise_groups(groups),
        differences=[line for group in groups[1:] if (line := compare_groups(groups[0], group))],
        every_run=tabulate_runs(groups),
        curves=draw_curves(groups, output),
        tests=tests,
        settings=find_differing_settings(groups),
        environment=collect_environments(groups),
        commands=[collect_commands(group) for group in groups],
        problems=[problem for run in runs for problem in run.problems],
    )
    page = output / PAGE
    write_whole(page, text.encode(errors="backslashreplace"))
    return page


@cache
def load_template() -> Template:
    environment = Environment(
        loader=PackageLoader("lightning_cifar.commands.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def holds_report(output: Path) -> bool:
    """Return whether a directory holds a report, or one that was not finished."""
    return (output / PAGE).exists() or (output / MARK).exists()


def refuse_other_figures(output: Path) -> None:
    """Raise `InputError` if a directory without a report holds images by the names of its figures."""
    others = sorted(one.name for one in output.iterdir() if FIGURE.fullmatch(one.name))
    if others and not holds_report(output):
        raise InputError(
            f"--output {output}: {others[0]} is of no report and would be replaced; name another directory"
        )


def draw_curves(groups: Sequence[Group], output: Path) -> list[dict[str, str]]:
    """Draw loss and accuracy over epochs for all runs."""
    labels = make_drawable(group.label for group in groups)
    if len({*labels}) < len(labels):
        labels = [f"{number}: {label}" for number, label in enumerate(labels, 1)]
    series = {
        label: [run.series for run in group.runs if run.series] for label, group in zip(labels, groups, strict=True)
    }
    if not any(series.values()):
        return []
    return [
        draw_panel(partial(draw, series), output / f"{name}.png", f"{name} over epochs", labels)
        for name, draw in CURVES.items()
    ]


def draw_tests(group: Group, number: int, output: Path) -> dict[str, Any]:
    """Draw the panels of a group's tests and list its recalls, pooled over seeds; list mistakes of its first test."""
    tests = [run.test for run in group.runs if run.test]
    found: dict[str, Any] = {"label": group.label, "tests": len(tests), "panels": [], "mistakes": [], "seed": None}
    found["recalls"] = []
    if not tests:
        return found
    try:
        pooled = pool_tests(tests)
        found["recalls"] = list_recalls(pooled, len(tests))
        for name, draw in list_panels(pooled).items():
            file = output / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            found["panels"].append(
                draw_panel(partial(draw, result=pooled), file, f"{name} of {group.label}", pooled["per_class"])
            )
        run = next((run for run in group.runs if run.test.get("mistakes")), None)
        if run is not None:
            found["seed"] = run.seed
            images = [format_data_uri(tile) for tile in run.tiles] or [""] * len(run.test["mistakes"])
            found["mistakes"] = [
                {name: mistake[name] for name in ("label", "prediction")}
                | {name: 100 * float(mistake[name]) for name in ("probability", "probability_of_label")}
                | {"image": image, "source": shorten(str(mistake.get("file", f"test image {mistake['index']}")), 80)}
                for image, mistake in zip(images, run.test["mistakes"], strict=True)
            ]
    except DAMAGED as error:
        problem = f"the test of {group.label} is damaged and incomplete here: {type(error).__name__} {reason(error)}"
        group.runs[0].problems.append(problem)
    return found


def list_recalls(test: dict[str, Any], tests: int) -> list[tuple[str, str, str]]:
    """Return name, recall in percent and test images of each class; ``test`` is pooled from several ``tests``."""
    rows = [(name, row["recall"], row["images"] // tests) for name, row in test["per_class"].items()]
    return [
        (shorten(name), "–" if recall is None else f"{100 * recall:.2f}", f"{images:,}")
        for name, recall, images in rows
    ]


def draw_panel(draw: Callable[[Axes], None], file: Path, description: str, names: Iterable[str]) -> dict[str, str]:
    """Draw a panel with ``names`` in it and write it to ``file``; return it as a data URI with its description."""
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    with rc_context({"font.family": choose_fonts(names)}):
        draw(figure.add_subplot())
    png = render_figure(figure, dpi=150)
    write_whole(file, png)
    return {"image": format_data_uri(png), "description": description}


def find_differing_settings(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return each option that differs between groups, with its values."""
    every = [select_settings(group.runs[0]) for group in groups]
    names = dict.fromkeys(name for one in every for name in one)
    rows = [(name, [format_value(one.get(name)) for one in every]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def format_value(value: Any) -> str:
    """Return a setting as JSON; fractions in lists with four digits."""
    if isinstance(value, list) and all(isinstance(one, float) for one in value):
        return "[" + ", ".join(f"{one:.4g}" for one in value) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)


def collect_environments(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return a row for each fact about hardware, software and data, with the distinct values of each group."""
    every = [[run.environment for run in group.runs] for group in groups]
    names = dict.fromkeys(name for group in every for one in group for name in one)
    rows = []
    for name in names:
        values = [[*dict.fromkeys(one[name] for one in group if name in one)] for group in every]
        rows.append((name, ["; ".join(one) for one in values]))
    return rows


def collect_commands(group: Group) -> dict[str, Any]:
    """Return the commands that were typed and those that repeat the run."""
    first = group.runs[0]
    typed = [run.command for run in group.runs if run.command]
    with contextlib.suppress(OSError, *DAMAGED):  # not a run of `repeat`, or an unfinished one
        typed = [read_json(group.directory / "repeat.json")["command"]]
    checkpoint = next((found for run in group.runs if (found := run.test.get("checkpoint"))), None)
    again = format_command("fit", "--config", first.directory / "config.yaml", *list_trust(first.trusted))
    return {
        "typed": typed,
        "again": again if first.config else None,
        "test": first.format_test(Path(checkpoint)) if checkpoint else None,
        "config": first.config,
    }
