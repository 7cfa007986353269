"""Names in figures: fonts that have their characters, and what is drawn where no installed font has them."""

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache

from matplotlib import font_manager
from PIL import ImageFont

DEFAULT = "DejaVu Sans"  # matplotlib's own


def shorten(name: str, length: int = 24) -> str:
    """Return a name of at most ``length`` printable characters: drawing a long one takes minutes."""
    name = "".join(letter if letter.isprintable() else " " for letter in name[: length + 1])
    return name if len(name) <= length else name[: length - 1] + "…"


def choose_fonts(names: Iterable[str]) -> list[str]:
    """Return the font families to draw names with: matplotlib's, and installed ones for what that lacks."""
    return [*find_fonts(frozenset("".join(names)))[0]]


def replace_missing(names: Iterable[str]) -> list[str]:
    """Return names shortened, with ``?`` for what no installed font has."""
    short = [shorten(name) for name in names]
    missing = find_fonts(frozenset("".join(short)))[1]
    return ["".join("?" if letter in missing else letter for letter in name) for name in short]


def make_drawable(names: Iterable[str]) -> list[str]:
    """Return the names of `replace_missing` as matplotlib draws them: with ``$`` as itself."""
    return [name.replace("$", r"\$") for name in replace_missing(names)]


def open_font(names: Iterable[str], size: int) -> ImageFont.FreeTypeFont:
    """Open a font for names that Pillow draws, which takes one only: the last of `choose_fonts`."""
    return ImageFont.truetype(font_manager.findfont(choose_fonts(names)[-1]), size)


def can_draw(names: Iterable[str]) -> bool:
    """Return whether installed fonts have all characters of the names."""
    return not find_fonts(frozenset("".join(map(shorten, names))))[1]


@lru_cache
def find_fonts(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return font families that have these letters together, and the letters that no installed font has."""
    families, missing = [DEFAULT], set(letters) - read_letters(font_manager.findfont(DEFAULT))
    for font in font_manager.fontManager.ttflist:
        # matplotlib's Last Resort has a box for every character.
        if missing and "Last Resort" not in font.name and (found := missing & read_letters(font.fname)):
            families.append(font.name)
            missing -= found
    return tuple(families), frozenset(missing)


@lru_cache
def read_letters(file: str) -> frozenset[str]:
    """Return the characters of a font; none if it cannot be read, as fonts of coloured emoji."""
    with suppress(RuntimeError, OSError):
        return frozenset(map(chr, font_manager.get_font(file).get_charmap()))
    return frozenset()
