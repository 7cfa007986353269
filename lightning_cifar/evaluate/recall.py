"""Balanced accuracy from the recall of each class. Imports no torch."""

from collections.abc import Sequence


def balance(recalls: Sequence[float | None], images: Sequence[int]) -> float | None:
    """Return the balanced accuracy: the mean recall of the classes that have images.

    None if all classes have the same number of images: balanced accuracy is then the accuracy.
    """
    if len({*images}) == 1:
        return None
    known = [recall for recall in recalls if recall is not None]
    return sum(known) / len(known)
