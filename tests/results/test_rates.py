"""What is read from the finder's steps, on curves whose answer is known."""

import numpy as np
import pytest

from lightning_cifar.results.rates import draw_rates, steepest, unbiased

RATES = np.logspace(-6, 0, 100).tolist()


def test_running_means_of_one_loss_are_that_loss():
    mean, found = 0.0, []
    for step in range(1, 50):
        mean = 0.98 * mean + 0.02 * 2.5
        found.append(mean / (1 - 0.98 ** (step + 1)))  # as Lightning has it
    assert unbiased(found) == pytest.approx([2.5] * 49)


def test_the_loss_falls_steepest_in_the_middle_of_a_step():
    losses = [2 - 1 / (1 + np.exp(-4 * (np.log10(rate) + 3))) for rate in RATES]
    assert steepest(RATES, losses) == pytest.approx(1e-3, rel=0.2)


@pytest.mark.parametrize("losses", [[1.0] * 100, np.linspace(1, 2, 100).tolist(), [float("nan")] * 100, [1.0] * 5])
def test_no_suggestion_where_the_loss_falls_nowhere(losses):
    assert steepest(RATES[: len(losses)], losses) is None


def test_the_picture_is_drawn_with_and_without_a_suggestion(tmp_path):
    for suggested in (None, 1e-3):
        draw_rates(tmp_path / "rates.png", RATES, [2.0] * 100, 1e-3, suggested)
        assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
