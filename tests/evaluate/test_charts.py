"""Figures as their readers see them: no title over another, counts in the bins, one scale, no squashed axes."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_cifar.evaluate.charts import draw_calibration
from lightning_cifar.evaluate.evaluation import evaluate_logits
from lightning_cifar.evaluate.explain import Explanation, draw_gates


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_calibration_is_bars_with_counts(temperature):
    logits, labels = torch.randn(500, 3), torch.randint(3, (500,))
    result = evaluate_logits(logits, labels, ("a", "b", "c"), temperature)
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_calibration(axes, result)
    images, accuracy = (result["reliability"][name] for name in ("images", "accuracy"))
    assert [text.get_text() for text in axes.texts] == [str(count) for count in images if count]
    assert [bar.get_height() for bar in axes.patches] == accuracy
    assert len(axes.lines) == (1 if temperature is None else 2)


def test_gates_have_one_scale():
    made = Explanation(np.zeros((32, 32, 3), np.uint8), np.zeros((8, 8)), [[0.82], [8.73]], ["3x3"])
    pixels = np.asarray(draw_gates(made)).astype(int)
    blue = (pixels == (0x44, 0x77, 0xAA)).all(2)
    lengths = [blue[half].any(0).sum() for half in (slice(0, 128), slice(128, 256))]
    assert lengths[1] / lengths[0] == pytest.approx(8.73 / 0.82, rel=0.1)
