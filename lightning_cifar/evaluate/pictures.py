"""The classes of one's own pictures, a row each, as many as there are: a few batches at a time, read ahead in threads.

Pictures are read in the way of `data.folder`: centred square, 32x32. What cannot be read gets a row that says why.

By threads and not processes, which would each import torch: large pictures are decoded outside the interpreter's lock,
and small ones many times faster than a CPU classifies them, by one thread alone.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lightning_cifar.data.folder import count_cores
from lightning_cifar.data.images import read_image
from lightning_cifar.evaluate.explain import Explanation, explained, picture
from lightning_cifar.train.classifier import ImageClassifier
from lightning_cifar.train.weights import get_class_names

AHEAD = 4  # batches that are read while one is classified
AT_ONCE = 32  # files that a thread reads before it comes back; small ones take hardly longer than that does


def rows(
    model: ImageClassifier,
    paths: Iterable[str],
    batch_size: int,
    top: int,
    precision: str = "32-true",
    explain: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """For each path, in order: ``file``, ``classes`` of (name, probability), ``error`` or None.

    Args:
        model: in evaluation mode.
        paths: of the pictures; any number.
        batch_size: how many are classified at once.
        top: how many classes, the likeliest first.
        precision: ``32-true``, or ``bf16-mixed``, faster on processors that have bfloat16.
        explain: a directory for a picture of each (see `explained`), called ``<number of the row>-<name>.png``.
    """
    number = 0
    with ThreadPoolExecutor(count_cores()) as pool:
        try:
            for batch in read_ahead(pool, iter(paths), batch_size):
                for row, explanation in answers(model, batch, top, precision, explain is not None):
                    number += 1
                    if explain is not None and explanation is not None:
                        drawn = picture(explanation, *row["classes"][0])
                        drawn.save(explain / f"{number:06}-{plain(Path(row['file']).stem)}.png")
                    yield row
        finally:  # stopped early, it does not read what nobody waits for
            pool.shutdown(wait=False, cancel_futures=True)


def answers(
    model: ImageClassifier, batch: list[tuple[str, Any]], top: int, precision: str = "32-true", explain: bool = False
) -> Iterator[tuple[dict[str, Any], Explanation | None]]:
    """For each (name, what `read` gave): the row of `rows`; its explanation, where one is wanted and can be had."""
    pixels = [one for _, one in batch if not isinstance(one, str)]
    classes: Iterator[list[tuple[str, float]]] = iter(())
    explanations: Iterator[Explanation] = iter(())
    if pixels:
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(model.device)
        probabilities = classified(model, images, precision)
        classes = iter(likeliest(model, probabilities, top))
        if explain:
            explanations = explained(model, images, probabilities.argmax(1))
    for name, one in batch:
        if isinstance(one, str):
            yield {"file": name, "classes": [], "error": one}, None
        else:
            yield {"file": name, "classes": next(classes), "error": None}, next(explanations, None)


def read_ahead(pool: ThreadPoolExecutor, paths: Iterator[str], batch_size: int) -> Iterator[list[tuple[str, Any]]]:
    """Batches of (path, pixels or what is wrong), while the next ones are read."""
    waiting: deque[list[Future[list[tuple[str, Any]]]]] = deque()
    while batch := list(islice(paths, batch_size)):
        parts = (batch[start : start + AT_ONCE] for start in range(0, len(batch), AT_ONCE))
        waiting.append([pool.submit(lambda part: [(path, read_file(path)) for path in part], part) for part in parts])
        if len(waiting) > AHEAD:
            yield list(chain.from_iterable(future.result() for future in waiting.popleft()))
    while waiting:
        yield list(chain.from_iterable(future.result() for future in waiting.popleft()))


def read_file(path: str) -> Any:
    """`read` of what is a file; a pipe would be waited for."""
    if not os.path.isfile(path):
        return "no such file" if not os.path.lexists(path) else "no file, nor a link to one"
    return read(path)


def read(source: str | BinaryIO) -> Any:
    """Pixels (32, 32, 3), uint8, of a picture; or, of what is none, a line that says why."""
    try:
        return read_image(source)
    except Exception as error:  # each decoder fails in its own ways
        return " ".join(str(error).split()).replace(f" {source!r}", "") or type(error).__name__


def classified(model: ImageClassifier, images: Tensor, precision: str = "32-true") -> Tensor:
    """Probabilities (B, num_classes) of images (B, 3, 32, 32)."""
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.inference_mode(), mixed:
        return model.predict_step(images, 0)


def likeliest(model: ImageClassifier, probabilities: Tensor, top: int) -> list[list[tuple[str, float]]]:
    """For each row of ``probabilities`` the ``top`` classes, or all there are: (name, probability)."""
    names = get_class_names(model)
    found = probabilities.topk(min(top, len(names)))
    pairs = zip(found.values.tolist(), found.indices.tolist(), strict=True)
    return [[(names[k], p) for p, k in zip(*one, strict=True)] for one in pairs]


def plain(name: str) -> str:
    """A short name of letters, digits, ``-`` and ``_``, whatever another was made of."""
    return "".join(one if one.isascii() and (one.isalnum() or one in "-_") else "_" for one in name)[:60]
