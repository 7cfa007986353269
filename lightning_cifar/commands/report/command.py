"""``report``: one HTML page of what runs left on disk, and its pictures."""

from pathlib import Path

from lightning_cifar.errors import DISK_FULL, InputError
from lightning_cifar.options import Arguments


def parser() -> Arguments:
    arguments = Arguments(
        "report",
        description="Writes one HTML page, with everything in it, of one or more runs, and its pictures as PNGs. Runs "
        "that differ in the seed alone are put together: mean, standard deviation, 95 % interval.",
    )
    arguments.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="a directory of fit, test or repeat; tests are found by fit's",
    )
    arguments.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write it, over an earlier one; default RUN_DIR/report, of the first",
    )
    return arguments


def main(args: list[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
        InputError: bad arguments.
    """
    own = parser().parse_args(args)
    from lightning_cifar.commands.report.page import write_report
    from lightning_cifar.commands.report.runs import read_runs

    runs = read_runs(own.runs)
    output = own.output or own.runs[0] / "report"
    try:
        output.mkdir(parents=True, exist_ok=True)
        page = write_report(runs, output)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(f"cannot write to {error.filename}: {error.strerror}; name a directory by --output") from error
    for run in runs:
        for problem in run.problems:
            print(f"left out: {problem}")
    print(f"report: {page}")
    return 0
