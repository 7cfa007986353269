"""Image files that a user names: paths, folders, patterns, or a list on standard input; reading them.

Imports no torch.
"""

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TextIO

from lightning_cifar.data.images import Square, is_image, read_image
from lightning_cifar.data.layout import walk


def find_images(names: Iterable[str], others: list[str] | None = None) -> Iterator[str]:
    """Yield every named file, the image files below named folders, and the matches of patterns, sorted.

    The name ``-`` stands for a list on standard input, one path a line. ``others`` receives the files below folders
    that are left out, because they are no images.
    """
    for name in names:
        if name == "-":
            allow_any_bytes(sys.stdin)
            yield from (path for line in sys.stdin if (path := line.rstrip("\r\n").removeprefix("\ufeff")))
        elif os.path.isdir(name):
            yield from find_images_below(name, others)
        elif not os.path.lexists(name) and glob.has_magic(name):
            yield from sorted(glob.glob(name, recursive=True))
        else:
            yield name


def find_images_below(folder: str, others: list[str] | None = None) -> Iterator[str]:
    """Yield the image files at any depth, and folders that cannot be read; add other files to ``others``."""
    unread: list[OSError] = []
    for path in walk(folder, onerror=unread.append):
        if is_image(path):
            yield path
        elif others is not None:
            others.append(path)
    yield from (str(error.filename) for error in unread)


def read_pixels(source: str | BinaryIO, square: Square) -> Any:
    """Return an image's pixels, uint8 (side, side, 3), or the reason, in one line, why it cannot be read."""
    try:
        return read_image(source, square)
    except Exception as error:  # each decoder fails in its own ways
        return " ".join(str(error).split()).replace(f" {source!r}", "") or type(error).__name__


def allow_any_bytes(stream: TextIO) -> None:
    """Let ``stream`` carry file names that are not valid text; one that is not in UTF-8 escapes what it lacks."""
    if isinstance(stream, io.TextIOWrapper):
        escapes = stream.writable() and stream.encoding.lower() not in ("utf-8", "utf8")
        stream.reconfigure(errors="backslashreplace" if escapes else "surrogateescape")
