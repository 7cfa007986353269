"""EpochTable: a row of text for each epoch, in the width there is, with a small plot of an accuracy so far."""

from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"
GAP = "  "

Cell = tuple[str, str, int]  # name of its column, text, least width


class EpochTable:
    """Lines to print for one epoch after the other, columns aligned to the right."""

    def __init__(self) -> None:
        self.header = ""

    def lines(self, cells: Sequence[Cell], width: int | None = None, plot: tuple[str, str] | None = None) -> list[str]:
        """The row of an epoch; before it the header, at first and when another column has come.

        Args:
            cells: of the row.
            width: characters there are, beyond which cells are left out from the right; None: enough for all.
            plot: name and line of a plot, which gets what space is left.
        """
        columns = [
            [text.rjust(max(least, len(name), len(value))) for text in (name, value)] for name, value, least in cells
        ]
        kept = columns
        if width is not None:
            while len(kept) > 1 and len(GAP.join(name for name, _ in kept)) > width:
                kept = kept[:-1]
            room = width - len(GAP.join(name for name, _ in kept)) - len(GAP)
            if plot is not None and kept == columns and room >= len(plot[0]):
                kept = [*kept, [plot[0], plot[1][-room:]]]
        header, row = (GAP.join(part).rstrip() for part in zip(*kept, strict=True))
        before, self.header = self.header, header
        return [row] if header == before else [header, row]


def sparkline(values: Sequence[float]) -> str:
    """A character for each value, from the lowest of them to the highest."""
    low, high = min(values), max(values)
    return "".join(LEVELS[round((value - low) / ((high - low) or 1) * (len(LEVELS) - 1))] for value in values)
