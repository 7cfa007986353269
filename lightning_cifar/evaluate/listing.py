"""Image files that a user names: paths, folders, patterns, or a list on standard input. Imports no torch."""

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

from lightning_cifar.data.images import has_image_suffix, is_image


def find_images(names: Iterable[str]) -> Iterator[str]:
    """Yield every named file, the image files below named folders, and the matches of patterns, sorted.

    The name ``-`` stands for a list on standard input, one path a line.
    """
    for name in names:
        if name == "-":
            allow_any_bytes(sys.stdin)
            yield from (path for line in sys.stdin if (path := line.rstrip("\r\n")))
        elif os.path.isdir(name):
            yield from find_images_below(name)
        elif not os.path.lexists(name) and glob.has_magic(name):
            yield from sorted(glob.glob(name, recursive=True))
        else:
            yield name


def find_images_below(folder: str) -> Iterator[str]:
    """Yield the image files at any depth; skip hidden files and folders, and count other files on standard error."""
    skipped = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(parent, name)
            if not name.startswith(".") and (has_image_suffix(name) or (os.path.isfile(path) and is_image(path))):
                yield path
            else:
                skipped += not name.startswith(".")
    if skipped:
        print(f"{folder}: {skipped} files are not images and are passed over", file=sys.stderr, flush=True)


def allow_any_bytes(stream: TextIO) -> None:
    """Let ``stream`` carry file names that are not valid text."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="surrogateescape")
