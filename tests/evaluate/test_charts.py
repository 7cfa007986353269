"""Figures as their readers see them: no title over another, counts in the bins, one scale, no squashed axes."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_cifar.evaluate.charts import draw_calibration, draw_confusion, draw_corruptions
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


def test_the_legend_of_the_calibration_covers_no_bar():
    logits, labels = torch.randn(500, 3), torch.zeros(500, dtype=torch.int64)
    logits[:, 0] = logits.amax(1) + 0.01  # right with low confidence
    figure = Figure(figsize=(5, 4.6))
    axes = figure.add_subplot()
    draw_calibration(axes, evaluate_logits(logits, labels, ("a", "b", "c"), 2.0))
    FigureCanvasAgg(figure).draw()
    legend = axes.get_legend().get_window_extent()
    assert not [one for one in (*axes.patches, *axes.texts) if legend.overlaps(one.get_window_extent())]


def test_the_diagonal_of_many_classes_is_seen():
    count = 1000
    figure = Figure(figsize=(5, 4.6))
    confusion = (4 * np.eye(count, dtype=int)).tolist()
    draw_confusion(axes := figure.add_subplot(), {"per_class": [*map(str, range(count))], "confusion": confusion})
    canvas = FigureCanvasAgg(figure)
    axes.set_axis_off()
    axes.set_title("")
    canvas.draw()
    red = np.asarray(canvas.buffer_rgba())[..., 0]
    assert (red < 100).sum() > axes.bbox.width / 2


def test_nineteen_corruptions_look_different():
    axes = Figure().add_subplot()
    corruptions = {f"corruption {number}": [0.5] * 5 for number in range(19)}
    draw_corruptions(axes, {"accuracy_without_tta": 0.9, "corruptions": corruptions})
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 19
