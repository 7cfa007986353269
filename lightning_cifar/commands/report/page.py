"""The report of runs: one HTML page with everything in it, and its pictures as PNGs. Needs no torch."""

import base64
import contextlib
import io
import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_cifar.commands.report.groups import PLACES, Group, grouped
from lightning_cifar.commands.report.measures import difference, every_run, means
from lightning_cifar.commands.report.pooled import pooled
from lightning_cifar.commands.report.runs import LeftRun
from lightning_cifar.errors import reason
from lightning_cifar.evaluate.charts import calibration, confusions, corruptions, risks
from lightning_cifar.evaluate.test_results import DAMAGED
from lightning_cifar.run.curves import plot_accuracies, plot_losses

PAGE = "report.html"
PANELS = {"confusion": confusions, "calibration": calibration, "risk": risks, "corruptions": corruptions}
CURVES = {"loss": plot_losses, "accuracy": plot_accuracies}


def write_report(runs: Sequence[LeftRun], output: Path) -> Path:
    """Writes the page and its PNGs to the directory ``output``, which must exist; returns the page's path.

    Of an earlier page there, no picture is left.
    """
    if (output / PAGE).exists():
        for name in (*CURVES, *PANELS):
            for file in (*output.glob(f"{name}.png"), *output.glob(f"{name}-[0-9]*.png")):
                file.unlink()
    groups = grouped(runs)
    tests = [evaluated(group, number, output) for number, group in enumerate(groups, 1)]
    environment = Environment(
        loader=PackageLoader("lightning_cifar.commands.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = output / PAGE
    page.write_text(
        environment.get_template("page.html.jinja").render(
            title=", ".join(group.label for group in groups),
            groups=groups,
            means=means(groups),
            differences=[line for group in groups[1:] if (line := difference(groups[0], group))],
            every_run=every_run(groups),
            curves=curves(groups, output),
            tests=tests,
            settings=settings(groups),
            environment=environments(groups),
            commands=[commands(group) for group in groups],
            problems=[problem for run in runs for problem in run.problems],
        ),
        encoding="utf-8",
    )
    return page


def curves(groups: Sequence[Group], output: Path) -> list[dict[str, str]]:
    """Loss and accuracy over epochs, of all runs."""
    series = {group.label: [run.series for run in group.runs if run.series] for group in groups}
    if not any(series.values()):
        return []
    return [
        picture(partial(draw, series), output / f"{name}.png", f"{name} over epochs") for name, draw in CURVES.items()
    ]


def evaluated(group: Group, number: int, output: Path) -> dict[str, Any]:
    """Pictures of a group's tests, over all its seeds, and the mistakes of its first; empty where none was tested."""
    tests = [run.test for run in group.runs if run.test]
    found: dict[str, Any] = {"label": group.label, "tests": len(tests), "panels": [], "mistakes": [], "seed": None}
    if not tests:
        return found
    try:
        whole = pooled(tests)
        for name, draw in PANELS.items():
            if name == "corruptions" and name not in whole:
                continue
            file = output / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            found["panels"].append(picture(partial(draw, result=whole), file, f"{name} of {group.label}"))
        run = next((run for run in group.runs if run.test.get("mistakes")), None)
        if run is not None:
            found["seed"] = run.seed
            images = [embedded(tile) for tile in run.tiles] or [""] * len(run.test["mistakes"])
            found["mistakes"] = [
                {name: mistake[name] for name in ("index", "label", "prediction")}
                | {name: 100 * float(mistake[name]) for name in ("probability", "probability_of_label")}
                | {"image": image}
                for image, mistake in zip(images, run.test["mistakes"], strict=True)
            ]
    except DAMAGED as error:
        said = f"the test of {group.label} is damaged, and shown in part: {type(error).__name__} {reason(error)}"
        group.runs[0].problems.append(said)
    return found


def picture(draw: Callable[[Axes], None], file: Path, words: str) -> dict[str, str]:
    """Draws one panel into ``file``; for the page, the same and what it shows."""
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    file.write_bytes(buffer.getvalue())
    return {"image": embedded(buffer.getvalue()), "words": words}


def embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def settings(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Each option that is not the same in all groups, with its values."""
    every = [group.runs[0].settings for group in groups]
    names = [name for name in dict.fromkeys(name for one in every for name in one) if name not in PLACES]
    rows = [(name, [written(one.get(name)) for one in every]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def written(value: Any) -> str:
    """As in YAML; of fractions, what there is to tell."""
    if isinstance(value, list) and all(isinstance(one, float) for one in value):
        return "[" + ", ".join(f"{one:.4g}" for one in value) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)


def environments(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """What each group ran on: a row for each fact, with every value that its runs have."""
    every = [[run.environment for run in group.runs] for group in groups]
    names = dict.fromkeys(name for group in every for one in group for name in one)
    rows = []
    for name in names:
        values = [[*dict.fromkeys(one[name] for one in group if name in one)] for group in every]
        rows.append((name, ["; ".join(one) for one in values]))
    return rows


def commands(group: Group) -> dict[str, Any]:
    """What was typed, and what does it again."""
    first = group.runs[0]
    typed = [run.command for run in group.runs if run.command]
    with contextlib.suppress(OSError, *DAMAGED):  # not by `repeat`, or it has not ended
        typed = [json.loads((group.directory / "repeat.json").read_text())["command"]]
    checkpoint = next((run.test["checkpoint"] for run in group.runs if "checkpoint" in run.test), None)
    return {
        "typed": typed,
        "again": command("fit", "--config", first.directory / "config.yaml") if first.config else None,
        "test": command("test", "--ckpt_path", checkpoint) if checkpoint else None,
        "config": first.config,
    }


def command(*words: str | Path) -> str:
    return shlex.join(["python", "-m", "lightning_cifar", *map(str, words)])
