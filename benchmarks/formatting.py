"""Results of the benchmarks: their JSON files, and cells and tables in Markdown."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning_cifar.files import write_json

RESULTS = Path(__file__).parent / "results"
MISSING = "not measured"
MEASURES = ("accuracy_without_tta", "accuracy")  # of each seed trained by ``repeat``


def load_result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def write_result(name: str, result: dict[str, Any]) -> None:
    write_json(RESULTS / f"{name}.json", result)


def keep_median(values: list[float]) -> dict[str, Any]:
    """Return the median of repeated measurements, and all of them, for a result."""
    return {"median": statistics.median(values), "all": values}


def print_tables(tables: dict[str, Callable[[], str]]) -> None:
    """Print the tables of a script as the docs will show them."""
    for tabulate in tables.values():
        print(tabulate(), end="\n\n", flush=True)


def format_table(head: list[str], rows: Iterable[list[str]], command: str | None = None) -> str:
    lines = [f"`{command}`", ""] if command else []
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)])


def format_percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def format_spread(summary: dict[str, float]) -> str:
    mean, std = summary["mean"], summary.get("std")
    return format_percent(mean) if std is None else f"{100 * mean:.2f} ± {format_percent(std)}"


def format_interval(gap: dict[str, Any], bold: bool) -> str:
    """Return a difference in points and its 95 % interval."""
    low, high = gap["interval"]
    text = f"{100 * gap['difference']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    return f"**{text}**" if bold else text


def format_milliseconds(found: dict[str, float]) -> str:
    return f"{1000 * found['median']:,.0f} ms"
