"""EpochTable: aligned rows that fit the width there is; the plot gets the rest."""

import pytest

from lightning_cifar.run.epoch_table import EpochTable, sparkline

CELLS = [("epoch", "1/30", 5), ("train loss", "2.1", 0), ("acc", "9.0%", 6), ("time", "00:04", 7)]


def test_rows_are_aligned_under_one_header():
    table = EpochTable()
    assert table.lines(CELLS) == ["epoch  train loss     acc     time", " 1/30         2.1    9.0%    00:04"]
    assert table.lines(CELLS) == [" 1/30         2.1    9.0%    00:04"]


def test_another_column_brings_another_header():
    table = EpochTable()
    table.lines(CELLS)
    header, row = table.lines([*CELLS, ("left", "", 0)])
    assert (header.split()[-1], row.endswith("00:04")) == ("left", True)


@pytest.mark.parametrize(
    ("width", "kept"),
    [(80, 4), (34, 4), (33, 3), (24, 2), (17, 2), (16, 1), (3, 1)],
)
def test_what_does_not_fit_is_left_out_from_the_right(width, kept):
    header, row = EpochTable().lines(CELLS, width, ("val acc", "▁█"))
    assert header.split()[:2] == ["epoch", "train"][: min(kept, 2)]
    assert len(row.split()) == kept + (width == 80)
    assert len(header) <= max(width, 5)


def test_the_plot_keeps_its_newest_part():
    header, row = EpochTable().lines(CELLS, 34 + 2 + 7, ("val acc", "▁▂▃▄▅▆▇█"))
    assert (header[-9:], row[-9:]) == ("  val acc", "  ▂▃▄▅▆▇█")
    assert EpochTable().lines(CELLS, 34 + 2 + 6, ("val acc", "▁"))[1].endswith("00:04")


def test_sparkline():
    assert sparkline([0, 1, 7]) == "▁▂█"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([3, 2]) == "█▁"
