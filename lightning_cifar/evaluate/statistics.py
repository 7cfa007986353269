"""Statistics over seeds: intervals, comparison of two recipes, agreement of predictions."""

import math
import statistics
from collections.abc import Sequence
from itertools import combinations
from operator import eq
from typing import Any

from scipy import stats

CONFIDENCE, POWER = 0.95, 0.8
MAX_SEEDS = 10_000
LARGE = 50.0  # standard deviations, for which two seeds suffice; of much larger gaps, scipy computes NaN


def summarise(values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)) -> dict[str, Any]:
    """Return n, mean, standard deviation, 95 % t-interval of the mean, median, minimum and maximum.

    ``std`` and ``interval`` are None for a single value. The interval is cut to ``limits``, the possible values.
    """
    result: dict[str, Any] = {"n": len(values), "mean": statistics.mean(values), "std": None, "interval": None}
    if len(values) > 1:
        result["std"] = statistics.stdev(values)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * result["std"] / len(values) ** 0.5
        result["interval"] = [max(result["mean"] - half, limits[0]), min(result["mean"] + half, limits[1])]
    return result | {"median": statistics.median(values), "min": min(values), "max": max(values)}


def estimate_share_interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval for a fraction ``share`` of ``count`` images."""
    found = stats.binomtest(round(share * count), count).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def compare(first: Sequence[float], second: Sequence[float], largest: float = math.inf) -> dict[str, Any]:
    """Compare the means of at least two values each by Welch's t-test, and estimate the seeds to distinguish them.

    Return the ``difference`` of the means (second minus first), its 95 % ``interval``, cut to the ``largest`` possible
    difference, ``distinct`` (whether the interval excludes 0) and ``seeds_needed``, the number of seeds of each with
    which the same test at 5 %, two-sided, detects this difference with probability 0.8; None if more than 10,000.
    """
    means, variances = (statistics.mean(first), statistics.mean(second)), [*map(statistics.variance, (first, second))]
    gap = means[1] - means[0]
    if max(variances) == 0:  # no spread, so no test
        return {"difference": gap, "interval": [gap, gap], "distinct": gap != 0, "seeds_needed": 2 if gap else None}
    # By hand: scipy's test warns where the values of one group are equal.
    errors = [variance / len(values) for variance, values in zip(variances, (first, second), strict=True)]
    freedom = sum(errors) ** 2 / sum(e**2 / (len(v) - 1) for e, v in zip(errors, (first, second), strict=True))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * sum(errors) ** 0.5
    interval = [max(gap - half, -largest), min(gap + half, largest)]
    spread = statistics.mean(variances) ** 0.5
    return {
        "difference": gap,
        "interval": interval,
        "distinct": not interval[0] <= 0 <= interval[1],
        "seeds_needed": count_seeds_needed(abs(gap) / spread, sum(variances) ** 2 / sum(v**2 for v in variances)),
    }


def measure_agreement(predictions: Sequence[Sequence[str]]) -> float | None:
    """Return the fraction of images classified alike, averaged over pairs of seeds; None for fewer than two seeds."""
    pairs = [*combinations(predictions, 2)]
    shares = [sum(map(eq, first, second)) / len(first) for first, second in pairs]
    return statistics.mean(shares) if shares else None


def count_seeds_needed(effect: float, groups: float = 2.0) -> int | None:
    """Return the seeds of each recipe needed to detect a gap of ``effect`` standard deviations; None if over 10,000.

    ``groups``, in [1, 2], is the number that the degrees of freedom count: 1 if only one recipe has spread, 2 if both
    have the same.
    """

    def suffices(n: int) -> bool:
        freedom = groups * (n - 1)
        threshold = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
        # The other tail is negligible where this one is near 0.8.
        return bool(stats.nct.sf(threshold, freedom, effect * (n / 2) ** 0.5) >= POWER)

    effect = min(effect, LARGE)
    low, high = 1, 2  # low does not suffice, because one value has no spread
    while not suffices(high):
        if high == MAX_SEEDS:
            return None
        low, high = high, min(2 * high, MAX_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
