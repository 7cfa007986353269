"""Scores from the counts of an evaluation. Imports no torch."""

from collections.abc import Mapping, Sequence


def measure_calibration_error(bins: Mapping[str, Sequence[float]]) -> float:
    """Return the expected calibration error, in [0, 1] (arXiv 1706.04599).

    ``bins`` has the ``images``, mean ``confidence`` and ``accuracy`` of each bin.
    """
    rows = zip(bins["images"], bins["confidence"], bins["accuracy"], strict=True)
    gaps = [images * abs(confidence - accuracy) for images, confidence, accuracy in rows]
    return float(sum(gaps) / sum(bins["images"]))


def average_recalls(recalls: Sequence[float | None], images: Sequence[int]) -> float | None:
    """Return the balanced accuracy: the mean recall of the classes that have images.

    None if all classes have the same number of images: balanced accuracy is then the accuracy.
    """
    if len({*images}) == 1:
        return None
    known = [recall for recall in recalls if recall is not None]
    return sum(known) / len(known)
