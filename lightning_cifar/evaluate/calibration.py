"""Expected calibration error from bins of confidence. Imports no torch."""

from collections.abc import Mapping, Sequence


def calibration_error(bins: Mapping[str, Sequence[float]]) -> float:
    """Return the expected calibration error, in [0, 1] (arXiv 1706.04599).

    ``bins`` has the ``images``, mean ``confidence`` and ``accuracy`` of each bin.
    """
    rows = zip(bins["images"], bins["confidence"], bins["accuracy"], strict=True)
    gaps = [images * abs(confidence - accuracy) for images, confidence, accuracy in rows]
    return float(sum(gaps) / sum(bins["images"]))
