"""What the steps of Lightning's learning-rate finder say: a suggestion, and the picture of loss by learning rate."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SMOOTHING = 0.98  # of the finder's running mean
NOISY = 10  # steps at the beginning, of which the suggestion takes none


def unbiased(losses: list[float]) -> list[float]:
    """The finder's running means, which it divides as if each had a step more: the first come out half as high."""
    steps = np.arange(1, len(losses) + 1)
    values: list[float] = (np.array(losses) * (1 - SMOOTHING ** (steps + 1)) / (1 - SMOOTHING**steps)).tolist()
    return values


def steepest(rates: list[float], losses: list[float]) -> float | None:
    """The rate at which the loss falls steepest by the logarithm of the rate; None where it never falls.

    Lightning's own suggestion is by the rate itself, and so nearly always among the lowest, where nothing is learnt.
    """
    x, y = np.array(rates[NOISY:-1]), np.array(losses[NOISY:-1])
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(x) < 2:
        return None
    slopes = np.gradient(y, np.log(x))
    return float(x[slopes.argmin()]) if slopes.min() < -1e-6 else None


def draw_rates(file: Path, rates: list[float], losses: list[float], own: float, suggested: float | None) -> None:
    """Writes a PNG.

    Args:
        file: where to.
        rates: of each step, rising.
        losses: of each step, smoothed.
        own: the recipe's rate.
        suggested: the finder's, if it has one.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(rates, losses, color="#0072B2")
    axes.axvline(own, color="grey", linestyle=":", label=f"the recipe's, {own:.3g}")
    if suggested is not None:
        axes.axvline(suggested, color="#D55E00", label=f"suggested, {suggested:.3g}: the loss falls steepest")
    axes.set(xscale="log", xlabel="learning rate, raised from step to step", ylabel="training loss, smoothed")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(file, dpi=120)
