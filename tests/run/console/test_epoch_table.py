"""EpochTable: aligned rows that fit the terminal, with a plot in the remaining width."""

import pytest

from lightning_cifar.run.console.epoch_table import EpochTable, draw_sparkline

CELLS = [("epoch", "1/30", 5), ("train loss", "2.1", 0), ("acc", "9.0%", 6), ("time", "00:04", 7)]


def test_rows_are_aligned_under_one_header():
    table = EpochTable()
    assert table.format_lines(CELLS) == ["epoch  train loss     acc     time", " 1/30         2.1    9.0%    00:04"]
    assert table.format_lines(CELLS) == [" 1/30         2.1    9.0%    00:04"]


def test_header_is_repeated_when_columns_change():
    table = EpochTable()
    table.format_lines(CELLS)
    header, row = table.format_lines([*CELLS, ("left", "", 0)])
    assert (header.split()[-1], row.endswith("00:04")) == ("left", True)


@pytest.mark.parametrize(
    ("width", "count"),
    [(80, 4), (34, 4), (33, 3), (24, 2), (17, 2), (16, 1), (3, 1)],
)
def test_cells_that_do_not_fit_are_dropped_from_the_right(width, count):
    header, row = EpochTable().format_lines(CELLS, width, ("val acc", "▁█"))
    assert header.split()[:2] == ["epoch", "train"][: min(count, 2)]
    assert len(row.split()) == count + (width == 80)
    assert len(header) <= max(width, 5)


def test_plot_is_cut_to_its_newest_values():
    header, row = EpochTable().format_lines(CELLS, 34 + 2 + 7, ("val acc", "▁▂▃▄▅▆▇█"))
    assert (header[-9:], row[-9:]) == ("  val acc", "  ▂▃▄▅▆▇█")
    assert EpochTable().format_lines(CELLS, 34 + 2 + 6, ("val acc", "▁"))[1].endswith("00:04")


def test_sparkline_scales_from_lowest_to_highest():
    assert draw_sparkline([0, 1, 7]) == "▁▂█"
    assert draw_sparkline([0.5, 0.5]) == "▁▁"
    assert draw_sparkline([3, 2]) == "█▁"
