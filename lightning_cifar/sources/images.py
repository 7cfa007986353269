"""Decoding of one image file into a square of RGB pixels, the same way for every file. Imports no torch.

- EXIF orientation is applied, unless it is damaged; only the first frame of an animation is used.
- 12-bit and 16-bit greyscale keeps its upper 8 bits, and floats in [0, 1] are scaled to 255; other floats
  and 32-bit integers, whose range is unknown, are refused. Transparent pixels are composited over white; greyscale,
  palette and CMYK images become RGB.
- Other sizes are resized with antialiasing (bicubic). If the image is not square, `crop` cuts out the centred square
  before that, and `letterbox` adds grey bars after that.
- A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, with no side below four times the result's: several times as
  fast.
"""

import contextlib
import os
import re
import threading
from collections import Counter
from collections.abc import Collection
from functools import cache
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from lightning_cifar.data.square import SQUARE, Square
from lightning_cifar.errors import InputError, format_count, name_extra

GREY = (128, 128, 128, 255)  # colour of the bars
MAX_PIXELS = 1 << 26  # per file, read from its header: 256 MB decoded, and up to twice that in conversions
LARGE = 1 << 23  # pixels; larger files are decoded one at a time, so that threads do not add up to gigabytes
LARGE_LOCK = threading.Lock()

# Recognised by content. Pillow reads more: PostScript, for which it runs another program, and icons (ICO, ICNS), which
# hold an image of another format whose size the header does not tell.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA"),
    *("TIFF", "WEBP"),
)
HEIC = (".heic", ".heif")  # photographs of phones, which Pillow reads through the package pillow-heif
RAW = "a raw photograph, or a TIFF of a kind that is not read"
UNREAD = {  # by their first 12 bytes
    **{rb"%PDF": "a PDF", rb"%!PS": "PostScript", rb"<": "SVG or a web page", rb"II\*\0|MM\0\*": RAW},
    **{rb"\0\0\x01\0|icns": "an icon", rb"8BPS": "a Photoshop file", rb"\xff\n|.{4}JXL ": "JPEG XL"},
    rb".{4}ftyp(isom|mp4|M4V|qt)|\x1aE\xdf\xa3|RIFF.{4}AVI ": "a video",
}


@cache
def list_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that Pillow supports here."""
    Image.init()
    with contextlib.suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def has_image_suffix(path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    return suffix in HEIC or (bool(list_formats()) and Image.EXTENSION.get(suffix) in FORMATS)


def is_image(path: str) -> bool:
    """Return whether a file is an image by its suffix or, if that is of no format, by its content."""
    if has_image_suffix(path):
        return True
    if not os.path.isfile(path):  # opening a pipe would block
        return False
    try:
        Image.open(path, formats=[one for one in list_formats() if one != "TGA"]).close()  # TGA has no signature
    except Exception:  # each decoder fails in its own ways
        return False
    return True


def count_kinds(paths: Collection[str]) -> str:
    """Count files by suffix: ``2 .db, 1 .csv, 1 without suffix``; the five most frequent kinds."""
    kinds = Counter(os.path.splitext(path)[1].lower() or "without suffix" for path in paths).most_common()
    words = [f"{count:,} {kind if kind.isprintable() else repr(kind)}" for kind, count in kinds[:5]]
    others = sum(count for _, count in kinds[5:])
    return ", ".join([*words, format_count(others, "other")] if others else words)


def explain_unread(source: str | BinaryIO) -> str:
    """Return what a file is that no decoder knows, by its first bytes, and what to do."""
    with open(source, "rb") if isinstance(source, str) else contextlib.nullcontext(source) as file:
        file.seek(0)
        head = file.read(12)
    if head[4:] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        damaged = "HEIF" in list_formats()
        return "HEIC that is damaged" if damaged else f"HEIC {name_extra('heic')}, or convert it to JPEG"
    kind = next((kind for start, kind in UNREAD.items() if re.match(start, head, re.DOTALL)), None)
    return f"{kind}: convert it to JPEG or PNG" if kind else "not an image" if head else "an empty file"


def read_image(source: str | BinaryIO, square: Square = SQUARE) -> np.ndarray:
    """Decode a file, given by its path or opened, into RGB uint8 (side, side, 3). Decoders fail in their own ways."""
    try:
        image = Image.open(source, formats=list_formats())
    except Image.UnidentifiedImageError:
        raise Image.UnidentifiedImageError(explain_unread(source)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels: make it smaller") from None
    with image:
        if (pixels := image.width * image.height) > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}: make it smaller")
        image.draft(None, (4 * square.side, 4 * square.side))
        pixels = pixels if image.info.get("progressive") else image.width * image.height  # that is whole in memory
        with LARGE_LOCK if pixels > LARGE else contextlib.nullcontext():
            return to_pixels(image, square)


def to_pixels(image: Image.Image, square: Square = SQUARE) -> np.ndarray:
    """Convert an open image to RGB uint8 (side, side, 3). It is resized early: copies of a large one cost memory."""
    image.load()
    with contextlib.suppress(Exception):  # of odd EXIF, before the image is turned or after it
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "FI":
        image = reduce_depth(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (square.side, square.side):
        image = make_square(image, square)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image)


def make_square(image: Image.Image, square: Square) -> Image.Image:
    if square.rule == "crop":
        return ImageOps.fit(image, (square.side, square.side), Image.Resampling.BICUBIC)
    width, height = (max(1, round(length / max(image.size) * square.side)) for length in image.size)  # as ImageOps.pad
    whole = Image.new(image.mode, (square.side, square.side), GREY[: len(image.mode)])
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    whole.paste(small, (round((square.side - width) / 2), round((square.side - height) / 2)))
    return whole


def reduce_depth(image: Image.Image) -> Image.Image:
    """Return floats, or greyscale of 12 or 16 bits, with 8 bits. Pillow ignores that 0 is white in some TIFFs."""
    tags: Any = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    values = np.asarray(image)
    if tags and image.mode == "I":
        raise ValueError("32-bit or signed pixels have no known range: save it with 8 or 16 bits")
    if image.mode != "F":
        grey = (values.clip(0, 65535) >> tags.get(BITSPERSAMPLE, (16,))[0] - 8).astype(np.uint8)
    elif values.min() >= 0 and values.max() <= 1:
        grey = (255 * values).round().astype(np.uint8)
    else:  # NaN too
        raise ValueError(f"float pixels must be in [0, 1], got {values.min():g} to {values.max():g}")
    return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC_INTERPRETATION) == 0 else grey)


def decode(path: str, square: Square = SQUARE) -> np.ndarray:
    """Decode a file of an image folder as `read_image` does; raise a one-line `InputError` if that fails."""
    try:
        return read_image(path, square)
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}): replace or remove it") from error
