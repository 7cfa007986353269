"""The plots of a sweep with a poor trial."""

import pytest
from matplotlib.figure import Figure

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
