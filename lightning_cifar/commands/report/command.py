"""``report``: one HTML page of one or more runs, and its figures."""

from pathlib import Path

from lightning_cifar.files import write_whole
from lightning_cifar.run.directory import claim_directory
from lightning_cifar.run.settings.options import Arguments


def parser() -> Arguments:
    arguments = Arguments(
        "report",
        description="Write one self-contained HTML page of one or more runs, and its figures as PNGs. Runs that differ "
        "only in the seed are grouped: mean, standard deviation, 95 % interval.",
    )
    what = "directory of fit, test or repeat; the tests of a fit directory are found"
    arguments.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help=what)
    where = "directory for the report, replaces an earlier one; default: report/ in the first RUN_DIR"
    arguments.add_argument("--output", type=Path, metavar="DIR", help=where)
    return arguments


def main(args: list[str]) -> int:
    """Run the command and return its exit status."""
    options = parser().parse_args(args)
    from lightning_cifar.commands.report.page import MARK, refuse_other_figures, write_report
    from lightning_cifar.commands.report.runs import read_runs

    runs = read_runs(options.runs)
    # Any directory will do: only the report's own files are replaced.
    output = claim_directory(options.output or options.runs[0] / "report", "--output", lambda _: True)
    if options.output:
        refuse_other_figures(output)
    write_whole(output / MARK, b"")
    page = write_report(runs, output)
    (output / MARK).unlink(missing_ok=True)
    for run in runs:
        for problem in run.problems:
            print(f"note: {problem}")
    print(f"report: {page}")
    return 0
