"""Image files: which formats are read, and how a file becomes 32x32 RGB. Imports no torch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning_cifar.errors import InputError

if TYPE_CHECKING:
    pass
import contextlib
import glob
import io
import os
import sys
import threading
from collections.abc import Iterable
from functools import cache
from typing import BinaryIO, TextIO

import numpy as np
from PIL import Image, ImageOps

SIZE = 32  # pixels; every source delivers SIZE x SIZE

# What is decoded, by a file's content; Pillow knows more, among them PostScript, for which it runs another program.
PICTURE_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"),
    "WEBP",
)


@cache
def formats() -> tuple[str, ...]:
    """Those of `PICTURE_FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(form for form in PICTURE_FORMATS if form in Image.OPEN)


def named_pictures(named: Iterable[str]) -> Iterator[str]:
    """Each file that is named, those below folders that are called like pictures, and those of patterns, sorted."""
    for name in named:
        if name == "-":
            any_bytes(sys.stdin)
            yield from (name for line in sys.stdin if (name := line.rstrip("\r\n")))
        elif os.path.isdir(name):
            yield from pictures_below(name)
        elif not os.path.lexists(name) and glob.has_magic(name):
            yield from sorted(glob.glob(name, recursive=True))
        else:
            yield name


def pictures_below(folder: str) -> Iterator[str]:
    """Files in it and in folders of it whose suffix is one of a format that is read; hidden ones are passed over."""
    Image.init()
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Image.EXTENSION.get(os.path.splitext(name)[1].lower()) in PICTURE_FORMATS:
                yield os.path.join(where, name)


def any_bytes(stream: TextIO) -> None:
    """Lets names of files through that are no text."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="surrogateescape")


MAX_PIXELS = 1 << 26  # of a file, by its header, before they are decoded: 256 MB, and up to twice that in conversions
LARGE = 1 << 23  # pixels; files with more are decoded one at a time, so that threads do not add up to gigabytes
ONE_AT_A_TIME = threading.Lock()


def read_image(source: str | BinaryIO) -> np.ndarray:
    """One file, by its path or opened, as (32, 32, 3) uint8, by the rule at the top of this module.

    Raises:
        Exception: it cannot be decoded; decoders fail in their own ways.
    """
    with Image.open(source, formats=formats()) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width}x{opened.height} pixels are more than {MAX_PIXELS:,}")
        opened.draft(None, (4 * SIZE, 4 * SIZE))
        with ONE_AT_A_TIME if opened.width * opened.height > LARGE else contextlib.nullcontext():
            return small(opened)


def small(image: Image.Image) -> np.ndarray:
    """`read_image` of what is opened: made small first, since copies of a large one cost memory."""
    ImageOps.exif_transpose(image, in_place=True)
    deep = image.mode.startswith("I")  # 16 bits
    mode = "I" if deep else "RGBA" if image.has_transparency_data else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (SIZE, SIZE):
        image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)
    if deep:
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image)


def decode(path: str) -> np.ndarray:
    """`read_image`, which must succeed: an image that cannot be trained on ends the run."""
    try:
        return read_image(path)
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not an image: remove it from the class folder") from None
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}): replace or remove it") from error
