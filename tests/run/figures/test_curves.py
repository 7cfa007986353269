"""Reading metrics.csv as series over epochs, and plotting them."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_cifar.run.figures.curves import plot_losses, plot_metrics, read_metrics

CSV = """epoch,step,train/loss_step,train/loss_epoch,train/accuracy_epoch,val/loss,val/accuracy
0,49,2.0,,,,
0,99,,,,1.5,0.4
0,99,,1.8,0.3,,
1,149,1.4,,,,
1,199,,,,1.2,0.5
1,199,,1.3,0.45,,
"""


@pytest.fixture
def metrics(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text(CSV)
    return file


def test_steps_are_placed_between_epochs(metrics):
    series = read_metrics(metrics)
    assert series["train/loss_step"] == [(0.5, 2.0), (1.5, 1.4)]
    assert series["train/loss_epoch"] == [(1.0, 1.8), (2.0, 1.3)]
    assert series["val/accuracy"] == [(1.0, 0.4), (2.0, 0.5)]


def test_steps_per_epoch_places_steps_of_an_unfinished_epoch(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("\n".join(CSV.splitlines()[:2]))
    assert read_metrics(file, steps_per_epoch=100)["train/loss_step"] == [(0.5, 2.0)]


def test_validation_within_an_epoch_is_placed_at_its_step(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,val/loss,train/loss_epoch\n0,24,1.9,\n0,49,1.8,\n0,99,1.7,\n0,99,,1.9\n")
    assert read_metrics(file)["val/loss"] == [(0.25, 1.9), (0.5, 1.8), (1.0, 1.7)]


def test_epochs_of_different_lengths_and_one_that_ended_early(tmp_path):
    """As with a GradientAccumulationScheduler: 100, 50 and 25 steps, of which the last epoch does 10."""
    file = tmp_path / "metrics.csv"
    lines = ["epoch,step,train/loss_step,train/loss_epoch", "0,49,2.0,", "0,99,,1.9", "1,124,1.8,", "1,149,,1.7"]
    file.write_text("\n".join([*lines, "2,154,1.6,", "2,159,,1.5"]))
    series = read_metrics(file, steps_per_epoch=25)
    assert series["train/loss_step"] == [(0.5, 2.0), (1.5, 1.8), (2.2, 1.6)]
    assert series["train/loss_epoch"] == [(1.0, 1.9), (2.0, 1.7), (2.4, 1.5)]


def test_a_run_that_continues_after_epochs_of_another_length(tmp_path):
    """Another run trained three epochs of 100 steps, this one two of 50, of which the second ended early."""
    file = tmp_path / "metrics.csv"
    lines = ["epoch,step,train/loss_step,train/loss_epoch", "3,324,2.0,", "3,349,,1.9", "4,374,,1.8"]
    for count, expected in ((3, [(4.0, 1.9)]), (4, [(4.0, 1.9), (4.5, 1.8)])):
        file.write_text("\n".join(lines[:count]))
        series = read_metrics(file, steps_per_epoch=50)
        assert series["train/loss_step"] == [(3.5, 2.0)]
        assert series["train/loss_epoch"] == expected


def test_figure_plots_every_series(metrics):
    loss, accuracy = plot_metrics(read_metrics(metrics)).axes
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in loss.lines}
    assert drawn["val loss 1.200"] == [(1.0, 1.5), (2.0, 1.2)]
    assert drawn["train loss 1.300"] == [(1.0, 1.8), (2.0, 1.3)]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "train accuracy 45.0%",
        "val accuracy 50.0%",
    ]


@pytest.mark.parametrize(("lines", "drawn"), [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_a_run_of_any_length_is_plotted(tmp_path, lines, drawn):
    """From before its first row on; without rows of an epoch, its length is not known."""
    file = tmp_path / "metrics.csv"
    file.write_text("\n".join(CSV.splitlines()[:lines]))
    assert len(plot_metrics(read_metrics(file), "a $run$").axes[0].lines) == drawn


def test_names_of_a_module_of_the_user_are_plotted():
    """One that logs steps or epochs alone in training, and both in validation."""
    points = [(0.5, 2.0), (1.0, 1.5)]
    series = {"train/loss": points, "train/accuracy": points[1:], "val/loss_step": points, "val/loss_epoch": points[1:]}
    drawn = [
        {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in axes.lines}
        for axes in plot_metrics(series).axes
    ]
    loss = {"train, single steps": points, "val, single steps": points, "val loss 1.500": points[1:]}
    assert drawn == [loss, {"train accuracy 150.0%": points[1:]}]


def test_each_configuration_has_a_colour_and_dashed_training_curves(metrics):
    series, axes = read_metrics(metrics), Figure().subplots()
    plot_losses({"one": [series, series], "two": [series]}, axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "one, train",
        "one, val",
        "two, train",
        "two, val",
    ]
    styles = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert len(set(styles[:4])) == 2  # the two seeds of "one"
    assert {style for _, style in styles[:4]} == {"--", "-"}
    assert {colour for colour, _ in styles[:4]}.isdisjoint({colour for colour, _ in styles[4:]})


def test_ten_configurations_look_different(metrics):
    series, axes = read_metrics(metrics), Figure().subplots()
    plot_losses({str(number): [series] for number in range(10)}, axes)
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(axes.lines) == 20


@pytest.mark.slow
def test_ticks_of_a_narrow_range_differ_and_a_long_title_fits():
    points = [(1.0, 0.101), (2.0, 0.104)]
    figure = plot_metrics({"val/accuracy": points, "val/loss": points}, "x" * 300)
    FigureCanvasAgg(figure).draw()
    labels = [tick.get_text() for tick in figure.axes[1].get_yticklabels()]
    assert len({*labels}) == len(labels)
    box = figure.texts[0].get_window_extent()
    assert 0 < box.x0 < box.x1 < figure.bbox.width


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "scale"),
    [((1e4, 2.0, 1.5), "log"), ((1.8, 1.5, 1e4), "log"), ((2.3, 1e-3), "linear"), ((200.0, 150.0), "linear"),
     ((1e4, 2.0, 0.0, float("nan"), float("inf")), "log"), ((float("nan"), float("nan")), "linear")],
)  # fmt: skip
def test_a_huge_loss_does_not_hide_the_others(losses, scale):
    figure = plot_metrics({"train/loss_step": [*enumerate(losses)], "val/loss": [*enumerate(losses)]})
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_yscale() == scale


@pytest.mark.slow
@pytest.mark.parametrize("losses", [(0.00012, 0.00011), (123456.0, 123400.0), (1e4, 2.0)])
def test_labels_of_any_losses_are_in_the_figure(losses):
    """The margins are fixed: a layout that measures its labels takes half as long again at the end of each run."""
    accuracies = [(1.0, 0.1234), (2.0, 0.1236)]
    figure = plot_metrics({"val/loss": [*enumerate(losses)], "val/accuracy": accuracies}, "report/2026-11-25_12-00-00")
    FigureCanvasAgg(figure).draw()
    loss, accuracy = (axes.get_tightbbox() for axes in figure.axes)
    assert loss.x0 > 0
    assert accuracy.x0 > figure.axes[0].get_window_extent().x1
    assert min(loss.y0, accuracy.y0) > 0
    assert max(loss.y1, accuracy.y1) < figure.texts[0].get_window_extent().y0
