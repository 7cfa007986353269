"""A text table with one row per epoch, fitted to the width of the terminal."""

from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"
GAP = "  "

Cell = tuple[str, str, int]  # column name, text, minimum width


class EpochTable:
    """A table that is printed row by row, with right-aligned columns."""

    def __init__(self) -> None:
        self.header = ""

    def format_lines(
        self, cells: Sequence[Cell], width: int | None = None, plot: tuple[str, str] | None = None
    ) -> list[str]:
        """Return the lines of an epoch: its row, after a header if the columns have changed.

        Args:
            cells: cells of the row.
            width: available characters; cells that do not fit are dropped from the right. None: unlimited.
            plot: column name and text of a plot, which is cut to the remaining width.
        """
        columns = [
            [text.rjust(max(least, len(name), len(value))) for text in (name, value)] for name, value, least in cells
        ]
        shown = columns
        if width is not None:
            while len(shown) > 1 and len(GAP.join(name for name, _ in shown)) > width:
                shown = shown[:-1]
            room = width - len(GAP.join(name for name, _ in shown)) - len(GAP)
            if plot is not None and shown == columns and room >= len(plot[0]):
                shown = [*shown, [plot[0], plot[1][-room:]]]
        header, row = (GAP.join(line).rstrip() for line in zip(*shown, strict=True))
        before, self.header = self.header, header
        return [row] if header == before else [header, row]


def draw_sparkline(values: Sequence[float]) -> str:
    """Return one block character per value, scaled from the lowest value to the highest."""
    low, high = min(values), max(values)
    return "".join(LEVELS[round((value - low) / ((high - low) or 1) * (len(LEVELS) - 1))] for value in values)
