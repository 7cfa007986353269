"""Fill the tables of README.md and docs/ from ``benchmarks/results/*.json``.

    python benchmarks/tables.py [--check]

A table lies between ``<!-- NAME -->`` and ``<!-- end -->``. The script that makes the numbers formats them too: each
lists its tables by NAME in ``TABLES``. With ``--check`` nothing is written, and the exit status is 1 if a page differs.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from formatting import RESULTS, format_table, load_result

HERE = Path(__file__).parent
PAGES = [HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md"))]


def tabulate_evidence() -> str:
    """Format the list of all result files, each with the command that makes it."""
    rows = []
    for file in sorted(RESULTS.glob("*.json")):
        command = load_result(file.stem).get("command")
        link = f"[`{file.name}`](../benchmarks/results/{file.name})"
        rows.append([link, f"`{command}`" if command else "the commands in the file"])
    return format_table(["file", "made by"], rows)


def collect_tables() -> dict[str, Callable[[], str]]:
    """Return the function of every table, by name."""
    tables = {"evidence": tabulate_evidence}
    for script in sorted(HERE.glob("*.py")):
        if script != Path(__file__):
            tables |= getattr(importlib.import_module(script.stem), "TABLES", {})
    return tables


def fill(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """Return the page's text with every table replaced by the current one."""

    def replace(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{tables[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def main(check: bool) -> int:
    tables, status = collect_tables(), 0
    for page in PAGES:
        text = page.read_text()
        filled = fill(text, tables)
        if filled == text:
            continue
        if check:
            print(f"{page.name} differs from benchmarks/results: run python benchmarks/tables.py", file=sys.stderr)
            status = 1
        else:
            page.write_text(filled)
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if a table differs")
    sys.exit(main(parser.parse_args().check))
