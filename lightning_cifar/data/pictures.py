"""Which pictures are read, and which files are meant by names, folders and patterns: known without torch."""

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TextIO

from PIL import Image

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
