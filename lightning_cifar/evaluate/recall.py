"""Recall of each class, and balanced accuracy, from a confusion matrix. Imports no torch."""

from collections.abc import Sequence


def measure_recalls(confusion: Sequence[Sequence[int]]) -> list[float | None]:
    """Return the share of each class's images that are classified as this class; None for a class without images.

    Args:
        confusion: images by (true class, predicted class).
    """
    return [row[label] / sum(row) if sum(row) else None for label, row in enumerate(confusion)]


def measure_balanced_accuracy(confusion: Sequence[Sequence[int]]) -> float | None:
    """Return `balance` of a confusion matrix."""
    return balance(measure_recalls(confusion), [sum(row) for row in confusion])


def balance(recalls: Sequence[float | None], images: Sequence[int]) -> float | None:
    """Return the balanced accuracy: the mean recall of the classes that have images.

    None if all classes have the same number of images: balanced accuracy is then the accuracy.
    """
    if len({*images}) == 1:
        return None
    known = [recall for recall in recalls if recall is not None]
    return sum(known) / len(known)
