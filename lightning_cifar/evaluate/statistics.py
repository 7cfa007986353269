"""What n seeds say together, and whether two recipes can be told apart."""

import statistics
from collections.abc import Sequence
from itertools import combinations
from operator import eq
from typing import Any

from scipy import stats

CONFIDENCE, POWER = 0.95, 0.8
MOST_SEEDS = 10_000


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation, 95 % t-interval of the mean, median, minimum and maximum; of one value no spread."""
    result: dict[str, Any] = {"n": len(values), "mean": statistics.mean(values), "std": None, "interval": None}
    if len(values) > 1:
        result["std"] = statistics.stdev(values)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * result["std"] / len(values) ** 0.5
        result["interval"] = [result["mean"] - half, result["mean"] + half]
    return result | {"median": statistics.median(values), "min": min(values), "max": max(values)}


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that was found among ``count`` images."""
    found = stats.binomtest(round(share * count), count).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """How much larger the mean of ``second`` is, with Welch's 95 % interval, and the seeds it takes to tell them apart.

    Args:
        first: at least two values.
        second: at least two values.

    Returns:
        ``difference``, ``interval``, ``distinct`` (whether the interval excludes 0) and ``seeds_needed``: of each, for
        a two-sided t-test at 5 % to find a difference of this size with probability 0.8; None: more than 10,000.
    """
    means, variances = (statistics.mean(first), statistics.mean(second)), [*map(statistics.variance, (first, second))]
    gap = means[1] - means[0]
    if max(variances) == 0:  # nothing is left to chance
        return {"difference": gap, "interval": [gap, gap], "distinct": gap != 0, "seeds_needed": 2 if gap else None}
    test = stats.ttest_ind(second, first, equal_var=False).confidence_interval(CONFIDENCE)
    interval = [float(test.low), float(test.high)]
    spread = statistics.mean(variances) ** 0.5
    return {
        "difference": gap,
        "interval": interval,
        "distinct": not interval[0] <= 0 <= interval[1],
        "seeds_needed": seeds_needed(abs(gap) / spread),
    }


def agreement(predictions: Sequence[Sequence[str]]) -> float | None:
    """Share of images that two seeds classify alike, the mean over all pairs; None of fewer than two seeds."""
    pairs = [*combinations(predictions, 2)]
    shares = [sum(map(eq, first, second)) / len(first) for first, second in pairs]
    return statistics.mean(shares) if shares else None


def seeds_needed(effect: float) -> int | None:
    """Fewest seeds of each of two recipes to find a difference of ``effect`` standard deviations; None: too many."""

    def found(n: int) -> bool:
        freedom = 2 * n - 2
        threshold = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
        # The other tail is nothing to speak of where this one is near 0.8.
        return bool(stats.nct.sf(threshold, freedom, effect * (n / 2) ** 0.5) >= POWER)

    if not found(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # found(high), and not found(low), for one value of each has no spread
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high
