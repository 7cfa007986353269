"""``predict --images``: the classes of one's own pictures, a row each, as many as there are.

Pictures are read in the way of `data.folder`: centred square, 32x32. What cannot be read gets a row that says why.
"""

import contextlib
import csv
import glob
import json
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lightning_cifar.arguments import PRETRAINED_NAME, Arguments
from lightning_cifar.errors import InputError

if TYPE_CHECKING:
    from lightning_cifar.train.classifier import ImageClassifier

FORMATS = ("csv", "jsonl", "table")
AHEAD = 4  # batches that are read while one is classified


def parser() -> Arguments:
    arguments = Arguments("predict", description="Predicts the classes of pictures: 0 if all were read, 1 if not.")
    add = arguments.add_argument
    add("--ckpt_path", required=True, help=f"a checkpoint, a .safetensors file, or {PRETRAINED_NAME}")
    add("--images", nargs="+", required=True, metavar="PATH", help="files, folders, patterns; -: a list on stdin")
    add("--top", type=int, default=3, help="how many classes of each, the likeliest first; default 3")
    add("--format", choices=FORMATS, help="default: table on a terminal, else csv")
    add("--output", type=Path, help="a file, written whole; default: standard output")
    add("--batch_size", type=int, default=256, help="pictures that are classified at once; default 256")
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
    paths = found(own.images)
    first = next(paths, None)
    if first is None:
        raise InputError(f"--images {' '.join(own.images)}: there is no picture")
    import torch

    from lightning_cifar.results.weights import PRETRAINED, load_model

    device = ("cuda" if torch.cuda.is_available() else "cpu") if own.device == "auto" else own.device
    file = PRETRAINED if own.ckpt_path == PRETRAINED_NAME else Path(own.ckpt_path)
    if not file.is_file():
        raise InputError(f"--ckpt_path {own.ckpt_path}: no such file")
    try:
        model = load_model(file).to(device)
    except RuntimeError as error:
        raise InputError(f"--device {own.device}: {str(error).splitlines()[0]}") from error
    failed = 0
    with output(own.output) as opened, contextlib.suppress(BrokenPipeError):  # by `| head`, say
        write = writer(own.format or ("table" if opened.isatty() else "csv"), opened, own.top)
        for row in rows(model, chain([first], paths), own.batch_size, own.top):
            failed += row["error"] is not None
            write(row)
    if failed:
        print(f"{failed:,} could not be read: column `error` says why", file=sys.stderr)
    return int(failed > 0)


def found(named: Iterable[str]) -> Iterator[str]:
    """Each file that is named, those below folders that are called like pictures, and those of patterns, sorted."""
    for name in named:
        if name == "-":
            yield from (line for line in sys.stdin.read().splitlines() if line)
        elif os.path.isdir(name):
            yield from below(name)
        elif not os.path.lexists(name) and glob.has_magic(name):
            yield from sorted(glob.glob(name, recursive=True))
        else:
            yield name


def below(folder: str) -> Iterator[str]:
    from PIL import Image

    Image.init()
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in Image.EXTENSION:
                yield os.path.join(where, name)


def rows(model: "ImageClassifier", paths: Iterable[str], batch_size: int, top: int) -> Iterator[dict[str, Any]]:
    """For each path: ``file``, ``classes`` of (name, probability), ``error`` or None; a few batches at a time."""
    import numpy as np
    import torch
    from tqdm import tqdm

    names = model.hparams["class_names"] or [f"class {index}" for index in range(model.hparams["num_classes"])]
    top = min(top, len(names))
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool, torch.inference_mode():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF or palettes
        batches = read_ahead(pool, iter(paths), batch_size)
        for batch in tqdm(batches, "predicting", unit=" batches", disable=None):
            pixels = [one for _, one in batch if not isinstance(one, str)]
            classes: Iterator[list[tuple[str, float]]] = iter(())
            if pixels:
                images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(model.device)
                likeliest = model.predict_step(images, 0).topk(top)
                pairs = zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
                classes = ([(names[k], p) for p, k in zip(*one, strict=True)] for one in pairs)
            for path, one in batch:
                error = one if isinstance(one, str) else None
                yield {"file": path, "classes": [] if error else next(classes), "error": error}


def read_ahead(pool: ThreadPoolExecutor, paths: Iterator[str], batch_size: int) -> Iterator[list[tuple[str, Any]]]:
    """Batches of (path, pixels or what is wrong), while the next ones are read."""
    waiting: deque[list[tuple[str, Future[Any]]]] = deque()
    while batch := list(islice(paths, batch_size)):
        waiting.append([(path, pool.submit(pixels_or_error, path)) for path in batch])
        if len(waiting) > AHEAD:
            yield [(path, future.result()) for path, future in waiting.popleft()]
    while waiting:
        yield [(path, future.result()) for path, future in waiting.popleft()]


def pixels_or_error(path: str) -> Any:
    from lightning_cifar.data.folder import read_image

    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError("no such file" if not os.path.lexists(path) else "no file, nor a link to one")
        return read_image(path)
    except Exception as error:  # each decoder fails in its own ways
        return " ".join(str(error).split()).replace(repr(path), "it") or type(error).__name__


@contextlib.contextmanager
def output(file: Path | None) -> Iterator[TextIO]:
    """Standard output, or ``file``, which is there when it is whole."""
    if file is None:
        yield sys.stdout
        return
    partial = file.with_name(f".{file.name}.partial")
    try:
        opened = partial.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise InputError(f"--output {file}: {error.strerror}") from error
    with opened:
        yield opened
    os.replace(partial, file)
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
