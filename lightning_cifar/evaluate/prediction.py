"""Predictions for any number of image files: a few batches in memory, read ahead in threads.

Files are decoded as in `sources.images`, to the model's size. A file that cannot be read gets a row with the error.

Threads suffice, and processes would each import torch: large images are decoded outside the interpreter's lock, and
one thread decodes small ones many times faster than a CPU classifies them.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_cifar.data.square import Square
from lightning_cifar.errors import InputError, reason
from lightning_cifar.evaluate.explain import Explanation, draw_explanation, explain_classes
from lightning_cifar.evaluate.listing import read_file
from lightning_cifar.files import write_whole
from lightning_cifar.run.figures.png import encode_png
from lightning_cifar.run.weights import find_checkpoint, get_class_names, get_square, load_pretrained
from lightning_cifar.sources.decoding import count_cores
from lightning_cifar.train.classifier import ImageClassifier

AHEAD = 4  # batches read while one is classified
FILES_PER_TASK = 32  # small files take hardly longer to read than a thread to be scheduled


def predict_files(
    model: ImageClassifier,
    paths: Iterable[str],
    batch_size: int,
    top: int,
    precision: str = "32-true",
    explain: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each path, in order: ``file``, ``classes`` of (name, probability), ``error`` or None.

    The ``top`` classes are the likeliest ones. In the precision ``bf16-mixed``, processors with bfloat16 are faster
    than in ``32-true``. ``explain`` is a directory for a figure of each image, ``<row number>-<name>.png``.
    """
    number = 0
    with ThreadPoolExecutor(count_cores()) as pool:
        try:
            for batch in read_ahead(pool, iter(paths), batch_size, get_square(model.hparams)):
                for row, explanation in predict_batch(model, batch, top, precision, explain is not None):
                    number += 1
                    if explain is not None and explanation is not None:
                        figure = draw_explanation(explanation, *row["classes"][0])
                        name = f"{number:06}-{make_file_name(Path(row['file']).stem)}.png"
                        write_whole(explain / name, encode_png(figure))
                    yield row
        finally:  # if stopped early, files that are queued are not read
            pool.shutdown(wait=False, cancel_futures=True)


def predict_batch(
    model: ImageClassifier, batch: list[tuple[str, Any]], top: int, precision: str = "32-true", explain: bool = False
) -> Iterator[tuple[dict[str, Any], Explanation | None]]:
    """Yield the row of `predict_files` and the explanation, or None, of each (name, result of `read_pixels`)."""
    pixels = [content for _, content in batch if not isinstance(content, str)]
    found: Iterator[tuple[list[tuple[str, float]], bool, Explanation | None]] = iter(())
    if pixels:
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(model.device)
        probabilities = predict_probabilities(model, images, precision)
        explanations = explain_classes(model, images, probabilities.argmax(1)) if explain else [None] * len(pixels)
        finite = probabilities.isfinite().all(1).tolist()
        found = zip(rank_classes(model, probabilities, top), finite, explanations, strict=True)
    for name, content in batch:
        if isinstance(content, str):
            yield {"file": name, "classes": [], "error": content}, None
            continue
        classes, is_finite, explanation = next(found)
        if is_finite:
            yield {"file": name, "classes": classes, "error": None}, explanation
        else:
            yield {"file": name, "classes": [], "error": "the model's probabilities are NaN"}, None


def read_ahead(
    pool: ThreadPoolExecutor, paths: Iterator[str], batch_size: int, square: Square
) -> Iterator[list[tuple[str, Any]]]:
    """Yield batches of (path, result of `read_file`) while the next ones are read."""

    def read(part: list[str]) -> list[tuple[str, Any]]:
        return [(path, read_file(path, square)) for path in part]

    waiting: deque[list[Future[list[tuple[str, Any]]]]] = deque()
    while (batch := list(islice(paths, batch_size))) or waiting:
        if batch:
            parts = (batch[start : start + FILES_PER_TASK] for start in range(0, len(batch), FILES_PER_TASK))
            waiting.append([pool.submit(read, part) for part in parts])
        if not batch or len(waiting) > AHEAD:
            yield [row for future in waiting.popleft() for row in future.result()]


def predict_probabilities(model: ImageClassifier, images: Tensor, precision: str = "32-true") -> Tensor:
    """Return probabilities (B, num_classes) for uint8 images (B, 3, H, W)."""
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.inference_mode(), mixed:
        return model.predict_step(images, 0)


def rank_classes(model: ImageClassifier, probabilities: Tensor, top: int) -> list[list[tuple[str, float]]]:
    """Return the ``top`` classes, at most all, of each row of ``probabilities``: (name, probability)."""
    names = get_class_names(model)
    ranked = probabilities.topk(min(top, len(names)))
    pairs = zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)
    return [[(names[k], p) for p, k in zip(*pair, strict=True)] for pair in pairs]


def make_file_name(name: str) -> str:
    """Replace every character but ASCII letters, digits, ``-`` and ``_`` by ``_``; return at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60]


def load_named_model(ckpt_path: str, device: str) -> ImageClassifier:
    """Load the model of ``--ckpt_path`` in evaluation mode on ``--device``; ``auto``: a GPU if there is one."""
    model = load_pretrained(find_checkpoint(ckpt_path))
    try:
        model = model.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        model.normalise.mean.tolist()  # `meta` holds no values
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        raise InputError(f"--device {device}: {reason(error)}") from error
    return model
