"""The plots of a sweep with a poor trial."""

import optuna
import pytest
from matplotlib.figure import Figure

from lightning_cifar.commands.sweep import study
from lightning_cifar.commands.sweep.study import limit_outliers


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([0.1, 0.90, 0.91, 0.92, 0.93], "accuracy (1 below"),
        ([0.7, 0.8, 0.9, 0.95], "accuracy"),
        ([0.5, 0.5, 0.5, 0.5, 0.1], "accuracy"),
        ([0.1, 0.9], "accuracy"),
    ],
)
def test_an_outlier_does_not_squash_the_others(values, label):
    axes = Figure().add_subplot()
    axes.plot(values)
    axes.set_ylabel("accuracy")
    before = axes.get_ylim()[0]
    limit_outliers([axes], values)
    assert axes.get_ylabel().startswith(label)
    assert (axes.get_ylim()[0] > before) == ("below" in label)


@pytest.mark.slow
def test_labels_of_many_contours_do_not_overlap(tmp_path, monkeypatch):
    """Three options make nine panels."""
    shown, search = {}, optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    search.optimize(
        lambda trial: sum(trial.suggest_float(f"model.learning_rate_{name}", 0, 1) for name in "abc"), n_trials=6
    )

    def measure(figure, **_):
        figure.canvas.draw()
        panels = [one.get_window_extent() for one in figure.axes if one.get_xlabel()]
        labels = [axis.label.get_window_extent() for one in figure.axes for axis in (one.xaxis, one.yaxis)]
        shown[len(panels)] = sum(label.overlaps(panel) for label in labels for panel in panels if label.width)
        return b""

    monkeypatch.setattr(study, "render_figure", measure)
    study.write_plots(search, tmp_path)
    assert shown[9] == 0
