"""``predict --images``: the classes of one's own pictures, a row each, as many as there are."""

import contextlib
import csv
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lightning_cifar.data.listing import allow_any_bytes, find_images
from lightning_cifar.errors import InputError
from lightning_cifar.options import PRETRAINED_NAME, Arguments, check_output

if TYPE_CHECKING:
    from lightning_cifar.train.classifier import ImageClassifier

FORMATS = ("csv", "jsonl", "table")
TTA = ("none", "mirror", "translate")
PRECISIONS = ("32-true", "bf16-mixed", "auto")


def parser() -> Arguments:
    arguments = Arguments("predict", description="Predicts the classes of pictures: 0 if all were read, 1 if not.")
    add = arguments.add_argument
    add("--ckpt_path", required=True, help=f"a checkpoint, a .safetensors file, or {PRETRAINED_NAME}")
    add("--images", nargs="+", required=True, metavar="PATH", help="files, folders, patterns; -: a list on stdin")
    add("--top", type=int, default=3, help="how many classes of each, the likeliest first; default 3")
    add("--format", choices=FORMATS, help="default: table on a terminal, else csv")
    add("--output", type=Path, help="a file, written whole; default: standard output")
    add("--explain", type=Path, metavar="DIR", help="a picture of each there: what spoke for its class, and the gates")
    add("--tta", choices=TTA, help="test-time augmentation, instead of the model's own; none is the fastest")
    add("--precision", choices=PRECISIONS, default="32-true", help="auto: the faster one here; default 32-true")
    add("--batch_size", type=int, default=128, help="pictures that are classified at once; default 128")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    return arguments


def main(args: list[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
        InputError: bad arguments, or no picture at all.
    """
    own = parser().parse_args(args)
    if own.batch_size < 1 or own.top < 1:
        raise InputError(f"--batch_size and --top must be at least 1, got {own.batch_size}, {own.top}")
    paths = find_images(own.images)
    first = next(paths, None)
    if first is None:
        raise InputError(f"--images {' '.join(own.images)}: there is no picture")
    from tqdm import tqdm

    from lightning_cifar.evaluate.pictures import rows
    from lightning_cifar.train.weights import load_named_model

    model = load_named_model(own.ckpt_path, own.device)
    own.top = min(own.top, model.hparams["num_classes"])
    if own.tta:
        model.hparams["tta"] = own.tta
    precision = faster(model) if own.precision == "auto" else own.precision
    if own.explain:
        make_empty(own.explain)
    failed = 0
    with warnings.catch_warnings(), output(own.output) as opened, contextlib.suppress(BrokenPipeError):  # by `| head`
        warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF or palettes
        write = writer(own.format or ("table" if opened.isatty() else "csv"), opened, own.top)
        found_rows = rows(model, chain([first], paths), own.batch_size, own.top, precision, own.explain)
        # A bar with count and images/s, where stderr is a terminal; rows in a terminal show progress themselves.
        for row in tqdm(found_rows, "predicting", unit=" images", disable=True if opened.isatty() else None):
            failed += row["error"] is not None
            write(row)
    if own.explain:
        print(f"explanations: {own.explain}", file=sys.stderr)
    if failed:
        print(f"{failed:,} could not be read: column `error` says why", file=sys.stderr)
    return int(failed > 0)


def faster(model: "ImageClassifier") -> str:
    import torch

    from lightning_cifar.train.hardware import find_fastest_precision

    noise = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, device=model.device)
    return find_fastest_precision(model.network, model.normalise(noise))


def make_empty(folder: Path) -> None:
    """Makes the directory.

    Raises:
        InputError: it cannot be made, or it holds something.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--explain {folder} is not empty: name a new directory")
    except OSError as error:
        raise InputError(f"--explain {folder}: {error.strerror}") from error


@contextlib.contextmanager
def output(file: Path | None) -> Iterator[TextIO]:
    """Standard output, or ``file``, which is there when it is whole."""
    if file is None:
        allow_any_bytes(sys.stdout)
        yield sys.stdout
        return
    check_output(file)
    partial = file.with_name(f".{file.name}.partial")
    try:
        opened = partial.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise InputError(f"--output {file}: {error.strerror}") from error
    try:
        with opened:
            yield opened
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)  # of a command that was stopped
    print(f"predictions: {file}", file=sys.stderr)


def writer(form: str, opened: TextIO, top: int) -> Callable[[dict[str, Any]], object]:
    """Writes a row of `rows` in one of `FORMATS`."""
    if form == "jsonl":
        return lambda row: opened.write(json.dumps(row) + "\n")
    if form == "csv":
        rest = [f"{what}{number}" for number in range(2, top + 1) for what in ("class", "probability")]
        lines = csv.writer(opened)
        lines.writerow(["file", "class", "probability", *rest, "error"])
        return lambda row: lines.writerow([row["file"], *cells(row, top), row["error"] or ""])
    return lambda row: opened.write(f"{printable(row['file'])}  {row['error'] or words(row)}\n")


def cells(row: dict[str, Any], top: int) -> list[str]:
    found = list(chain(*((name, f"{probability:.6f}") for name, probability in row["classes"])))
    return found + [""] * (2 * top - len(found))


def words(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {probability:.1%}" for name, probability in row["classes"])


def printable(name: str) -> str:
    """Without line breaks, control characters and what is no text."""
    return name if name.isprintable() else repr(name)
