"""Text tables in aligned columns."""

from unicodedata import combining, east_asian_width


def align_columns(rows: list[list[str]]) -> str:
    """Return a text table, with the first column aligned left and the others right."""
    widths = [max(map(count_columns, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        spaces = [" " * (width - count_columns(cell)) for cell, width in zip(row, widths, strict=True)]
        others = [space + cell for space, cell in zip(spaces, row, strict=True)][1:]
        lines.append("  ".join([row[0] + spaces[0], *others]))
    return "\n".join(lines)


def count_columns(text: str) -> int:
    """Return the columns of a terminal that a text takes: two for a Chinese letter, none for a combining accent."""
    return sum(0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in text)
