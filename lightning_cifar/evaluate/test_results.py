"""Results of ``test``: writing them, and finding those of a run. Importing this module imports no torch."""

import csv
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cifar.evaluate.tables import describe_partial
from lightning_cifar.files import compute_digest, open_atomically, write_json, write_whole
from lightning_cifar.run.records.stored_files import DAMAGED, read_json

RESULT, FIGURE, MISTAKES, LOGITS = "test.json", "test.png", "mistakes.png", "predictions.npz"
PREDICTIONS = "predictions.csv"
TESTS = "tests.json"  # in a run directory: the directories of its tests, relative to it

if TYPE_CHECKING:
    from torch import Tensor


def identify_checkpoint(checkpoint: Path, directory: Path, digest: str | None = None) -> dict[str, str]:
    """Return the entries of ``test.json`` in ``directory`` that identify the checkpoint: relative path and SHA-256.

    ``digest`` is that of the content which was loaded; None: of the file as it is now.
    """
    relative = os.path.relpath(checkpoint, directory)
    return {"checkpoint": relative, "checkpoint_sha256": digest or compute_digest(checkpoint)}


def write_evaluation(directory: Path, result: dict[str, Any], images: Any) -> None:
    """Write ``test.json``, the figure ``test.png`` and, if there are mistakes, ``mistakes.png``.

    ``result`` is that of `evaluate_test`, with the entries of `identify_checkpoint` if a checkpoint was tested.
    ``images`` are those of its mistakes, uint8 (N, H, W, 3); None if there are none.
    """
    from lightning_cifar.evaluate.charts import draw_evaluation, draw_mistakes

    write_json(directory / RESULT, result)
    draw_evaluation(directory / FIGURE, result)
    if images is not None:
        draw_mistakes(directory / MISTAKES, images, result["mistakes"])
    register_test(directory)


def write_predictions(
    file: Path, probabilities: "Tensor", labels: "Tensor", class_names: tuple[str, ...], files: tuple[str, ...] = ()
) -> None:
    """Write a CSV file with a row for each image, in the order of the data, atomically.

    ``probabilities`` are (N, classes), ``labels`` the true classes (N,), ``files`` the names of a folder's images.
    """
    confidence, predicted = probabilities.max(1)
    with open_atomically(file, newline="", encoding="utf-8", errors="backslashreplace") as opened:
        writer = csv.writer(opened)
        writer.writerow(["index", "label", "prediction", "probability", *(["file"] if files else [])])
        rows = zip(labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
        for index, (label, prediction, probability) in enumerate(rows):
            shown = [index, class_names[label], class_names[prediction], f"{probability:.6f}"]
            writer.writerow([*shown, *files[index : index + 1]])


def write_logits(file: Path, outputs: "tuple[Tensor, Tensor, Tensor]", class_names: tuple[str, ...]) -> None:
    """Write ``logits``, ``logits_without_tta`` (N, classes), ``labels`` (N,) and ``class_names`` as NumPy's ``.npz``.

    ``outputs`` are those of `Outputs.compute`.
    """
    logits, plain, labels = (tensor.cpu().numpy() for tensor in outputs)
    with open_atomically(file, "wb") as opened:
        np.savez_compressed(opened, logits=logits, logits_without_tta=plain, labels=labels, class_names=class_names)


def read_checkpoint_path(directory: Path) -> Path | None:
    """Return the checkpoint that the test in ``directory`` names; None if there is no readable test."""
    try:
        named = read_json(directory / RESULT)["checkpoint"]
        return Path(os.path.normpath(directory / named)) if named else None
    except (OSError, *DAMAGED):
        return None


def find_tested_run(directory: Path) -> Path | None:
    """Return the run whose checkpoint was tested in ``directory``; None if it is not there any more."""
    checkpoint = read_checkpoint_path(directory)
    if checkpoint is None:
        return None
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / "config.yaml").exists() else None


def register_test(directory: Path) -> None:
    """Add ``directory`` to the tests that its run lists, so that the run's report finds it wherever it lies."""
    if (run := find_tested_run(directory)) and run.resolve() != directory.resolve():
        with suppress(OSError):  # a run that cannot be written
            write_whole(run / TESTS, json.dumps([*{*list_tests(run), os.path.relpath(directory, run)}]).encode())


def list_tests(run: Path) -> list[str]:
    """Return the directories of tests that the run lists, relative to it; none if its list is missing or damaged."""
    try:
        return [str(one) for one in read_json(run / TESTS)]
    except (OSError, *DAMAGED):
        return []


def find_tests(run: Path) -> list[Path]:
    """Return the directories of a run's tests: listed by it, below it, or in a ``test/`` near it.

    Those of all images come before those of a part, and then newer ones before older ones.
    """
    files = [Path(os.path.normpath(run / test / RESULT)) for test in list_tests(run)]
    files += [
        file for parent in ("..", "../..") for file in Path(os.path.normpath(run / parent)).glob(f"test/*/{RESULT}")
    ]
    directories = {file.parent for file in (*files, *run.rglob(RESULT)) if file.is_file()}
    tests = [one for one in directories if (tested := find_tested_run(one)) and tested.resolve() == run.resolve()]
    return sorted(tests, key=lambda test: (not is_partial(test), (test / RESULT).stat().st_mtime), reverse=True)


def is_partial(directory: Path) -> bool:
    """Return whether the test in ``directory`` is known to be one of a part of the images."""
    with suppress(OSError, *DAMAGED):
        return bool(describe_partial(read_json(directory / RESULT)))
    return False


def find_current_test(tests: Iterable[Path], checkpoint: Path | None = None) -> Path | None:
    """Return the first of ``tests`` whose checkpoint has not changed since; each checkpoint is hashed once.

    A test whose checkpoint is missing counts as current. Only tests of ``checkpoint`` count; None: of any.
    """
    digest = cache(compute_digest)
    for test in tests:
        tested = read_checkpoint_path(test)
        if checkpoint is not None and (tested is None or tested.resolve() != checkpoint.resolve()):
            continue
        if tested is None or not tested.is_file():
            return test
        if read_json(test / RESULT).get("checkpoint_sha256") == digest(tested.resolve()):
            return test
    return None
