"""Image files that a user names: paths, folders, patterns, or a list on standard input; reading them.

Imports no torch.
"""

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from typing import Any, BinaryIO, TextIO

from lightning_cifar.data.square import Square
from lightning_cifar.errors import InputError
from lightning_cifar.sources.images import is_image, read_image
from lightning_cifar.sources.layout import walk


def find_images(names: Iterable[str], others: list[str] | None = None) -> Iterator[str]:
    """Yield every named file, the image files below named folders, and the matches of patterns, sorted.

    The name ``-`` stands for a list on standard input, one path a line. ``others`` receives the files below folders
    that are left out, because they are no images.
    """
    for name in names:
        if name == "-":
            allow_any_bytes(sys.stdin)
            yield from read_list(sys.stdin)
        elif os.path.isdir(name):
            yield from find_images_below(name, others)
        elif not os.path.lexists(name) and glob.has_magic(name):
            for match in sorted(find_matches(name)):
                yield from find_images_below(match, others) if os.path.isdir(match) else [match]
        else:
            yield name


def read_list(lines: Iterable[str]) -> Iterator[str]:
    """Yield the path of each line that is not empty; `InputError` for what is no list of paths, such as an image."""
    for line in lines:
        if "\0" in line:
            raise InputError("--images -: standard input is no list of paths, one a line: it has zero bytes")
        if path := line.rstrip("\r\n").removeprefix("\ufeff"):
            yield path


def find_images_below(folder: str, others: list[str] | None = None) -> Iterator[str]:
    """Yield the image files at any depth, and folders that cannot be read; add other files to ``others``."""
    unread: list[OSError] = []
    for path in walk(folder, onerror=unread.append):
        if is_image(path):
            yield path
        elif others is not None:
            others.append(path)
    yield from (str(error.filename) for error in unread)


def find_matches(pattern: str) -> Iterator[str]:
    """Yield what a pattern matches; with ``**``, files at any depth and folders that cannot be read.

    Unlike glob's, ``**`` enters no folder twice: two links to a folder above would never end.
    """
    parts = pattern.replace("/", os.sep).split(os.sep)
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    place, unread = parts.index("**"), list[OSError]()
    hidden = any(map(is_hidden, parts[place:]))
    for start in glob.glob(os.sep.join([*parts[:place], ""])) if place else ["."]:
        for path in walk(start, onerror=unread.append, hidden=hidden):
            if match_parts(os.path.relpath(path, start).split(os.sep), parts[place:]):
                yield path if place else os.path.relpath(path)
    yield from (str(error.filename) for error in unread)


def match_parts(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, of which ``**`` matches any number.

    A hidden part matches only a pattern that begins with a dot, as in glob.
    """
    if not (parts and patterns):
        return not parts and {*patterns} <= {"**"}
    fits = is_hidden(parts[0]) <= is_hidden(patterns[0])
    if patterns[0] == "**":
        return match_parts(parts, patterns[1:]) or (fits and match_parts(parts[1:], patterns))
    return fits and fnmatch(parts[0], patterns[0]) and match_parts(parts[1:], patterns[1:])


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def read_pixels(source: str | BinaryIO, square: Square) -> Any:
    """Return an image's pixels, uint8 (side, side, 3), or the reason, in one line, why it cannot be read."""
    try:
        return read_image(source, square)
    except Exception as error:  # each decoder fails in its own ways
        return " ".join(str(error).split()).replace(f" {source!r}", "") or type(error).__name__


def read_file(path: str, square: Square) -> Any:
    """Return `read_pixels` of a regular file, or why ``path`` is none: reading a pipe would block."""
    if os.path.isfile(path):
        return read_pixels(path, square)
    if os.path.isdir(path):
        if os.access(path, os.R_OK | os.X_OK):
            return "a folder: name it by --images itself"
        return "a folder that cannot be read: check its permissions"
    return "not a regular file" if os.path.lexists(path) else "no such file"


def allow_any_bytes(stream: TextIO) -> None:
    """Let ``stream`` carry file names that are not valid text; one that is not in UTF-8 escapes what it lacks."""
    if isinstance(stream, io.TextIOWrapper):
        escapes = stream.writable() and stream.encoding.lower() not in ("utf-8", "utf8")
        stream.reconfigure(errors="backslashreplace" if escapes else "surrogateescape")
