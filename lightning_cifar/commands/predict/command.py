"""``predict --images``: the classes of image files, a row for each."""

import contextlib
import csv
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from lightning_cifar.errors import InputError, check_range, format_count
from lightning_cifar.evaluate.listing import allow_any_bytes, find_images
from lightning_cifar.files import PRETRAINED_NAME, open_atomically, write_whole
from lightning_cifar.run.directory import UNFINISHED, claim_directory
from lightning_cifar.run.settings.options import Arguments, add_checkpoint, check_output, check_parent
from lightning_cifar.sources.images import count_kinds, is_image

TOP = 3  # classes of each image, by default
FORMATS = ("csv", "jsonl", "table")
SUFFIXES = (".csv", ".jsonl", ".txt")  # of files that --output may overwrite
TTA = ("none", "mirror", "translate")
FIGURE = re.compile(r"\d{6,}-.*\.png", re.DOTALL)  # of `predict_files`
MARK = UNFINISHED.format("explain")
PRECISIONS = ("32-true", "bf16-mixed", "auto")


def parser() -> Arguments:
    arguments = Arguments(
        "predict", description="Predict the classes of image files. Exit status 0 if all were read, 1 if not."
    )
    add_checkpoint(arguments, default=PRETRAINED_NAME)
    add = arguments.add_argument
    add("--images", nargs="+", required=True, metavar="PATH", help="files, folders, patterns; -: a list on stdin")
    add("--top", type=int, help="number of classes for each image, the likeliest first; default 3")
    add("--format", choices=FORMATS, help="default: table on a terminal, jsonl if --output ends so, else csv")
    add("--output", type=Path, help="file, written atomically; default: standard output, as for -")
    add("--explain", type=Path, metavar="DIR", help="new directory for a figure of each image: Grad-CAM and gates")
    add("--tta", choices=TTA, help="test-time augmentation; default: the model's; none is the fastest")
    add("--precision", choices=PRECISIONS, default="32-true", help="auto: the faster one; default 32-true")
    add("--batch_size", type=int, default=128, help="images classified at once; default 128")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    return arguments


def main(args: list[str]) -> int:
    """Run the command and return its exit status."""
    options = parser().parse_args(args)
    check_range("--batch_size", options.batch_size, "[1, inf)")
    if options.top is not None:
        check_range("--top", options.top, "[1, inf)")
    others: list[str] = []
    paths = find_images(options.images, others)
    if options.explain:
        paths = iter([*paths])  # before there are figures, which may lie in a folder of images
    first = next(paths, None)
    if first is None:
        raise InputError(f"--images {' '.join(options.images)}: no image found{describe_others(others)}")
    from lightning_cifar.evaluate.prediction import load_named_model, predict_files

    model = load_named_model(options.ckpt_path, options.device)
    if options.tta:
        model.hparams["tta"] = options.tta
    if (precision := options.precision) == "auto":
        from lightning_cifar.run.process.hardware import find_fastest_precision
        from lightning_cifar.run.weights import get_square

        precision = find_fastest_precision(model.network, model.device, get_square(model.hparams).side)
    if options.explain:
        from lightning_cifar.evaluate.explain import check_maps

        check_maps(model)
    top = min(options.top or TOP, classes := model.hparams["num_classes"])
    if options.top and options.top > classes:
        print(f"note: --top {options.top}: the model has {classes} classes", file=sys.stderr)
    with open_output(options.output) as opened:  # may be refused, and must then leave no directory
        if options.explain:
            claim_directory(options.explain, "--explain", holds_unfinished)
            write_whole(options.explain / MARK, b"")
        rows = predict_files(model, chain([first], paths), options.batch_size, top, precision, options.explain)
        row_format = options.format or ("jsonl" if options.output and options.output.suffix == ".jsonl" else None)
        failed = write_rows(rows, opened, row_format, top)
    if options.explain:
        (options.explain / MARK).unlink(missing_ok=True)
        print(f"explanations: {options.explain}", file=sys.stderr)
    if others:
        print(f"left out{describe_others(others)}", file=sys.stderr)
    if failed:
        print(f"{format_count(failed, 'image')} could not be read: see the column `error`", file=sys.stderr)
    return int(failed > 0)


def holds_unfinished(directory: Path) -> bool:
    """Return whether a directory holds an unfinished ``--explain``, and nothing else, such as a later run."""
    shown = (file.name for file in directory.iterdir() if not file.name.startswith("."))
    return (directory / MARK).exists() and all(FIGURE.fullmatch(name) for name in shown)


def describe_others(others: list[str]) -> str:
    """Return a clause that counts the files below folders that are no images; nothing if there are none."""
    if not others:
        return ""
    found = format_count(len(others), "file that is not an image", "files that are not images")
    return f": {found} ({count_kinds(others)}), such as {escape_name(others[0])}"


def write_rows(rows: Iterator[dict[str, Any]], opened: IO[str], row_format: str | None, top: int) -> int:
    """Write the rows of `predict_files` as they come; return how many images could not be read."""
    from tqdm import tqdm

    failed = 0
    with warnings.catch_warnings(), contextlib.suppress(BrokenPipeError):  # `| head`
        warnings.simplefilter("ignore")  # Pillow's, about odd EXIF data or palettes
        on_terminal = opened.isatty()
        write = make_writer(row_format or ("table" if on_terminal else "csv"), opened, top)
        # The bar is shown if only stderr is a terminal: on a terminal the rows show the progress.
        for row in tqdm(rows, "predicting", unit=" images", disable=True if on_terminal else None):
            failed += row["error"] is not None
            write(row)
    return failed


@contextlib.contextmanager
def open_output(file: Path | None) -> Iterator[IO[str]]:
    """Open standard output, or ``file``, which is replaced once it is complete."""
    if file in (None, Path("-")):
        allow_any_bytes(sys.stdout)
        try:
            yield sys.stdout
            sys.stdout.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or "standard output") from error
        return
    if is_image(str(file)):
        raise InputError(f"--output {file} is an image, or named like one: name another file, such as predictions.csv")
    check_output(file, *SUFFIXES)
    check_parent(file)
    with open_atomically(file.resolve(), encoding="utf-8", errors="surrogateescape", newline="") as opened:
        yield opened
    print(f"predictions: {file}", file=sys.stderr)


def make_writer(row_format: str, opened: IO[str], top: int) -> Callable[[dict[str, Any]], object]:
    """Return a function that writes a row of `predict_files` in one of `FORMATS`."""
    if row_format == "jsonl":
        return lambda row: opened.write(json.dumps(row) + "\n")
    if row_format == "csv":
        rest = [f"{column}{number}" for number in range(2, top + 1) for column in ("class", "probability")]
        lines = csv.writer(opened)
        lines.writerow(["file", "class", "probability", *rest, "error"])
        return lambda row: lines.writerow([row["file"], *make_cells(row, top), row["error"] or ""])
    return lambda row: opened.write(f"{escape_name(row['file'])}  {row['error'] or format_classes(row)}\n")


def make_cells(row: dict[str, Any], top: int) -> list[str]:
    cells = list(chain(*((name, f"{probability:.6f}") for name, probability in row["classes"])))
    return cells + [""] * (2 * top - len(cells))


def format_classes(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {probability:.1%}" for name, probability in row["classes"])


def escape_name(name: str) -> str:
    """Escape line breaks, control characters and undecodable bytes."""
    return name if name.isprintable() else repr(name)
