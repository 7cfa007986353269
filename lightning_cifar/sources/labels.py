"""Labels of images in a CSV file: a row for each image, with its path, its label and optionally its part.

The first row names the columns (see `COLUMNS`). A path may begin above the image folder, and lack its suffix. A name
without folders is enough if only one file has it, as in Kaggle's ``id,label``.
"""

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_cifar.errors import InputError, list_some
from lightning_cifar.sources.images import has_image_suffix
from lightning_cifar.sources.layout import PARTS, find_part, report_skipped, walk

COLUMNS = {  # names in any case; of several columns, the one named first here
    "path": ("path", "file", "filename", "file_name", "image", "image_name", "image_id", "id"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "part", "set"),
}
MOST_NAMED = 50  # absent files in one message


def read_labels(file: Path, root: Path) -> dict[str, dict[str, list[str]]]:
    """Return the paths of the images of each part and class; rows without a part are of ``train``."""
    files = [path for path in walk(root) if os.path.isfile(path)]  # reading a pipe would block
    paths, names = index_files(root, files)
    parts: dict[str, dict[str, list[str]]] = {}
    lines: dict[str, int] = {}
    absent = []
    for line, name, label, part in read_rows(file):
        folders = os.path.normpath(name).split("/")
        tails = ("/".join(folders[start:]) for start in range(len(folders)))
        found = next((paths[tail] for tail in tails if tail in paths), names.get(name, []))
        if len(found) > 1:
            either = f"{found[0]} or {found[1]}"
            raise InputError(f"{file}, line {line}: {name} may be {either}: write the path below {root}")
        if not found:
            absent.append(name)
        elif found[0] in lines:
            raise InputError(f"{file}, line {line}: {name} is also in line {lines[found[0]]}: remove one of them")
        else:
            lines[found[0]] = line
            parts.setdefault(part, {}).setdefault(label, []).append(found[0])
    if absent:
        raise InputError(f"{file} names images that are not below {root}: {list_some(absent, MOST_NAMED)}")
    unnamed = [path for path in files if path not in lines and has_image_suffix(path)]
    report_skipped(unnamed, f"below {root}, but not in {file.name}")
    return parts


def index_files(root: Path, files: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the files by their path below ``root`` and by their name, each with and without its suffix."""
    paths: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for file in files:
        path = unicodedata.normalize("NFC", os.path.relpath(file, root))
        for key in {path, os.path.splitext(path)[0] if has_image_suffix(path) else path}:
            paths.setdefault(key, []).append(file)
            names.setdefault(os.path.basename(key), []).append(file)
    return paths, names


def read_rows(file: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield line, path, label and part of each row; `InputError` if one of them is missing."""
    try:
        if file.exists() and not file.is_file():
            raise OSError("not a regular file")
        text = unicodedata.normalize("NFC", file.read_text(encoding="utf-8-sig"))
        first = text.partition("\n")[0].strip()
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
        rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if any(row)] or [(1, [""])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"labels {file} cannot be read ({why}): name a CSV file in UTF-8") from None
    header = [name.lower() for name in rows[0][1]]
    columns = (next((header.index(name) for name in names if name in header), None) for names in COLUMNS.values())
    path, label, split = columns
    if path is not None and label is None and len(header) == 2:
        label = 1 - path
    if path is None or label is None:
        missing = "path" if path is None else "label"
        found = f"its first row is {first[:80]!r}"
        raise InputError(f"labels {file} has no column {missing}: {found}; name the columns there")
    for line, row in rows[1:]:
        if any("\n" in value for value in row):
            raise InputError(f"{file}, line {line}: a value of several lines ends here: is a quote not closed?")
        if any(row[len(header) :]):
            raise InputError(f"{file}, line {line}: it has more values than the first row: quote those with a comma")
        values = row + [""] * len(header)
        if not (values[path] and values[label]):
            raise InputError(f"{file}, line {line}: it lacks a path or a label")
        part = values[split] if split is not None and values[split] else "train"
        if (known := find_part(part)) is None:
            raise InputError(f"{file}, line {line}: the split {part!r} is none of {', '.join(PARTS)}")
        yield line, values[path].replace("\\", "/"), values[label], known


def list_labels(file: Path) -> dict[str, set[str]]:
    """Return the classes of each part."""
    parts: dict[str, set[str]] = {}
    for _, _, label, part in read_rows(file):
        parts.setdefault(part, set()).add(label)
    return parts
