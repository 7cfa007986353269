"""Folders of images as people lay them out: the files of each part, by class.

- ``train/<class>/*``, ``val/<class>/*`` and ``test/<class>/*``; any of them may be missing.
- ``<class>/*``, without parts: all images are in the part ``train``.

Class folders may have sub-folders. Files that are not images are passed over, with a line.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from lightning_cifar.errors import InputError, format_count, list_some
from lightning_cifar.sources.images import count_kinds, has_image_suffix, is_image

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}


def find_part(name: str) -> str | None:
    """Return the part that a folder or a column names: ``val`` for ``Valid`` or ``validation_set``."""
    short = re.sub(r"[ _-]?(set|data|images)$", "", name.lower())
    return next((part for part, names in PARTS.items() if short in names), None)


def find_parts(root: Path) -> dict[str, Path]:
    """Return the directory of each part in `PARTS` that ``root`` has."""
    found: dict[str, Path] = {}
    for path in list_folders(root):
        if part := find_part(path.name):
            if part in found:
                raise InputError(f"{found[part]} and {path} are both {part}: keep one of them")
            found[part] = path
    return {part: found[part] for part in PARTS if part in found}


def find_innermost(folder: Path, part: str) -> Path:
    """Return the folder that holds the classes of a part: in some archives, one of the same part within it."""
    while len(inside := list_folders(folder)) == 1 and find_part(inside[0].name) == part and list_folders(inside[0]):
        folder = inside[0]
    return folder


def list_folders(folder: Path) -> list[Path]:
    """Return the sub-folders that are neither hidden nor links to a folder that holds them, sorted."""
    found, real = folder.iterdir() if folder.is_dir() else (), Path(os.path.realpath(folder))
    shown = (one for one in found if one.name[0] != "." and one.is_dir())
    return sorted(one for one in shown if not real.is_relative_to(os.path.realpath(one)))


def find_classes(root: Path) -> dict[str, dict[str, str]]:
    """Return the class folders of each part, by name; without parts, those of ``root`` are the part ``train``."""
    if not root.is_dir():
        raise InputError(f"root {root} is not a directory: name one with train/<class>/* or <class>/*")
    named, inside = find_parts(root), list_folders(root)
    parts = {part: folder for part, folder in named.items() if list_folders(folder)}
    others = [one for one in inside if one not in named.values()]
    if not parts and (len(named) > 1 or (named and not others)):
        folder = next(iter(named.values()))
        raise InputError(f"{folder} holds no class folders: sort its images into them, or set labels to a CSV file")
    if [*parts] == ["train"] and (rivals := [one for one in others if any(map(has_image_suffix, walk(one)))]):
        raise InputError(f"{parts['train']} and {rivals[0]} hold images: is one a part and one a class? Rename one")
    if parts:
        return {part: name_folders(list_folders(find_innermost(folder, part))) for part, folder in parts.items()}
    classes = [one for one in inside if any(map(is_image, walk(one)))]
    refuse_parts(classes)
    return {"train": name_folders(classes)}


def refuse_parts(folders: Collection[Path]) -> None:
    """Raise `InputError` if these are parts rather than classes: named so, and all with images of the same folders."""
    odd = all(any(map(find_part, re.split("[^a-z]+", one.name.lower()))) for one in folders)
    inner = [{Path(path).parent.name for path in walk(one) if has_image_suffix(path)} for one in folders] if odd else []
    if len(inner) > 1 and len(inner[0]) > 1 and all(one == inner[0] for one in inner):
        parts, classes = (", ".join(sorted(names)[:3]) for names in ([one.name for one in folders], inner[0]))
        raise InputError(f"{parts} all hold folders of {classes}: name these parts train, val and test")


def name_folders(folders: Collection[Path]) -> dict[str, str]:
    """Return the folders by name, sorted. Names are composed (NFC): macOS may decompose accents, which nobody sees."""
    if odd := [one for one in folders if one.name.encode(errors="ignore").decode() != one.name]:
        raise InputError(f"{odd[0]}: the name of a class must be valid text: rename the folder")
    named = {unicodedata.normalize("NFC", one.name): str(one) for one in folders}
    if len(named) < len(folders):
        raise InputError(f"{next(iter(folders)).parent} has class folders that differ only in Unicode form: merge them")
    return dict(sorted(named.items()))


def list_class_files(root: Path) -> dict[str, dict[str, list[str]]]:
    """Return the paths of the images of each part and class, sorted; print what is passed over.

    Strings: 60,000 Paths would take 1 s. `InputError` if a class has no image, or holds something that is not a file.
    """
    classes, skipped = find_classes(root), list[str]()
    files: dict[str, dict[str, list[str]]] = {part: {} for part in classes}
    for part, folders in classes.items():
        for name, folder in folders.items():
            paths = sorted(walk(folder))
            if odd := [path for path in paths if not os.path.isfile(path)]:  # reading a pipe would block
                raise InputError(f"{odd[0]} is not a file: remove it from the class folder")
            files[part][name] = [path for path in paths if is_image(path)]
            if not files[part][name]:
                raise InputError(f"{folder} is empty of images: add images or remove the class from every part")
            skipped += sorted({*paths} - {*files[part][name]})
    report_skipped(skipped, "no image")
    used = {Path(folder) for folders in classes.values() for folder in folders.values()}
    parents = {root, *(one for folder in used for one in folder.parents if root in one.parents)}
    loose = [path for one in sorted(parents) for path in walk(one, deep=False) if has_image_suffix(path)]
    report_skipped(loose, "in no class folder")
    if names := [one.name for one in list_folders(root) if one not in used and one not in parents]:
        kind = "without images" if root in {one.parent for one in used} else f"other than {', '.join(classes)}"
        print(f"folders of {root} {kind} are left out: {list_some(names)}", flush=True)
    return files


def report_skipped(paths: list[str], why: str) -> None:
    """Print how many files of which kinds are passed over, and the first of them."""
    if paths:
        skipped = f"{format_count(len(paths), 'file')} passed over ({why})"
        print(f"{skipped}: {count_kinds(paths)}; the first is {paths[0]}", flush=True)


def walk(
    folder: Path | str, deep: bool = True, onerror: Callable[[OSError], object] | None = None, hidden: bool = False
) -> Iterator[str]:
    """Yield the files in a folder, with ``deep`` also those in its sub-folders; hidden ones only with ``hidden``.

    Links are followed, but no folder is entered twice, and none above ``folder``. ``onerror`` gets what hides a folder.
    """
    real, skipped = Path(os.path.realpath(folder)), "" if hidden else "."
    seen = {str(one) for one in (real, *real.parents)}
    for parent, folders, files in os.walk(folder, onerror=onerror or fail, followlinks=True):
        shown = (one for one in sorted(folders)[::-1] if one[0] not in skipped)
        names = {os.path.realpath(os.path.join(parent, one)): one for one in shown}
        folders[:] = sorted(one for path, one in names.items() if path not in seen) if deep else []
        seen.update(names)
        yield from (os.path.join(parent, name) for name in sorted(files) if name[0] not in skipped)


def fail(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}): name another directory") from error
