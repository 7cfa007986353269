"""Accuracy without the test images that are mislabelled or duplicates: known ones of CIFAR, found ones of folders."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_cifar.data.dataset import ImageSet, LabelledImages
from lightning_cifar.errors import InputError
from lightning_cifar.run.records.stored_files import check_file

# Position and label of each test image of CIFAR-10 whose label fewer than three of five reviewers chose (arXiv
# 2103.14749). From mturk/cifar10_mturk.json of cleanlab/label-errors, Apache License 2.0.
# fmt: off
LABEL_ERRORS = {
    165: 4, 792: 3, 882: 3, 1227: 3, 1300: 4, 1684: 1, 1718: 0, 1969: 1, 2010: 7, 2128: 4, 2232: 0, 2405: 3,
    2532: 0, 2592: 2, 2804: 3, 2840: 3, 2940: 3, 3113: 3, 3168: 9, 3183: 3, 3192: 5, 3490: 0, 3600: 4, 3753: 4,
    3977: 3, 4055: 1, 4198: 8, 4614: 3, 4643: 3, 4794: 4, 4910: 8, 4965: 3, 5166: 9, 5191: 3, 5211: 7, 5468: 5,
    5632: 3, 5690: 7, 5882: 1, 5960: 2, 6522: 9, 6792: 3, 6877: 0, 6966: 0, 7311: 1, 7657: 2, 7846: 6, 8058: 4,
    8296: 5, 8620: 3, 9227: 1, 9352: 1, 9643: 9, 9793: 2,
}
# fmt: on
TEST_IMAGES = 10_000  # of CIFAR-10, and of CIFAR-100


def evaluate_without_label_errors(logits: Tensor, labels: Tensor) -> dict[str, Any] | None:
    """Return accuracy and number of the images without a known label error; None if this is not CIFAR-10's test set."""
    positions, given = torch.tensor([*LABEL_ERRORS]), torch.tensor([*LABEL_ERRORS.values()])
    if len(labels) != TEST_IMAGES or not torch.equal(labels[positions].cpu(), given):
        return None
    return evaluate_without(positions.tolist(), logits, labels)


def evaluate_without(positions: Iterable[int], logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return accuracy and number of the images at other positions; see `evaluate_without_label_errors`."""
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[[*positions]] = False
    right = (logits.argmax(1) == labels)[kept]
    return {"accuracy": float(right.double().mean()) if len(right) else None, "images": len(right)}


def evaluate_without_training_images(
    train: LabelledImages, test: LabelledImages, logits: Tensor, labels: Tensor
) -> dict[str, Any] | None:
    """Return `evaluate_without` the images whose pixels are those of a training image; None if there is no such image.

    None too if the images are not in memory.
    """
    if not (isinstance(train, ImageSet) and isinstance(test, ImageSet)):
        return None
    known = {*hash_images(train.images)}
    found = [position for position, one in enumerate(hash_images(test.images[: len(labels)])) if one in known]
    return evaluate_without(found, logits, labels) if found else None


def hash_images(images: Tensor) -> Iterator[int]:
    """Yield a hash of the pixels of each image, uint8 (N, 3, H, W)."""
    return (hash(image.tobytes()) for image in images.permute(0, 2, 3, 1).cpu().numpy())


def read_near_duplicates(file: Path) -> list[int]:
    """Return the positions in column ``TestID`` of a CSV file, such as ciFAIR's ``duplicates_cifar10.csv``.

    Source: cvjena/cifair on GitHub (arXiv 1902.00423), which lists the test images of CIFAR-10 and CIFAR-100 that have
    a near duplicate among the training images. Its licence does not allow copies in this package.
    """
    try:
        check_file(file)
        with file.open(newline="") as opened:
            positions = sorted({int(row["TestID"]) for row in csv.DictReader(opened)})
    except OSError as error:
        raise InputError(f"--near_duplicates {file} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{file} is not a CSV file with a column TestID of numbers") from error
    if not positions or positions[0] < 0 or positions[-1] >= TEST_IMAGES:
        raise InputError(f"{file}: TestID must be in [0, {TEST_IMAGES - 1}], and there must be one")
    return positions
