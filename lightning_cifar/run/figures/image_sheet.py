"""Sheets of images with captions, for ``batch.png`` and ``mistakes.png``. Imports no torch."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lightning_cifar.run.figures.fonts import open_font, replace_missing
from lightning_cifar.run.figures.png import encode_png

COLUMNS = 8
TILE, MARGIN, LINE = 96, 6, 16  # pixels; an image is enlarged by a whole factor to about a tile


def draw_sheet(pixels: Any, captions: Sequence[Sequence[str]]) -> bytes:
    """Return a PNG of square images, uint8 (N, side, side, 3), N at least 1, eight in a row.

    All have the same number of lines below, their ``captions``; a long line is cut to the image's width.
    """
    side, height = pixels.shape[1], len(captions[0]) * LINE
    tile = side * max(1, round(TILE / side))
    rows = -(-len(pixels) // COLUMNS)
    size = (COLUMNS * (tile + MARGIN) + MARGIN, rows * (tile + MARGIN + height) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    write, font = ImageDraw.Draw(sheet), open_font((text for lines in captions for text in lines), 11)
    for number, (image, lines) in enumerate(zip(pixels, captions, strict=True)):
        left, top = find_place(number, tile, len(lines))
        sheet.paste(Image.fromarray(image).resize((tile, tile), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(replace_missing(lines)):
            middle = (left + tile // 2, top + tile + line * LINE + LINE // 2)
            write.text(middle, fit_text(text, font, tile), "black", font, anchor="mm")
    return encode_png(sheet, compress_level=1)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return a text that is at most ``width`` pixels wide: the start and an ellipsis, where it is wider."""
    shorter = (f"{text[:end]}…" for end in range(len(text) - 1, 0, -1))
    return next((shown for shown in (text, *shorter) if font.getlength(shown) <= width), "…")


def cut_sheet(sheet: Image.Image, count: int, lines: int) -> list[Image.Image]:
    """Return the images of a sheet, as large as they are drawn; a ValueError if it is no sheet of ``count`` images."""
    tile = (sheet.width - MARGIN) // COLUMNS - MARGIN
    if sheet.height != -(-count // COLUMNS) * (tile + MARGIN + lines * LINE) + MARGIN:
        raise ValueError(f"{sheet.width}x{sheet.height} pixels, for {count} images")
    places = (find_place(number, tile, lines) for number in range(count))
    return [sheet.crop((left, top, left + tile, top + tile)) for left, top in places]


def find_place(number: int, tile: int, lines: int) -> tuple[int, int]:
    """Return left and top of an image in the sheet."""
    row, column = divmod(number, COLUMNS)
    return MARGIN + column * (tile + MARGIN), MARGIN + row * (tile + MARGIN + lines * LINE)
