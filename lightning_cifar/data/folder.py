"""An image folder: read into memory, or from its files when they are due.

Decoding 60,000 files takes tens of seconds, so the decoded images are cached. The cache is used only while name, label,
size and times of every file are unchanged and the cached images have the recorded fingerprint.
"""

import hashlib
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from lightning_cifar.data.dataset import Dataset, ImageSet, LabelledImages, complete_parts, digest_images
from lightning_cifar.data.decoding import decode_all, refuse_damaged
from lightning_cifar.data.images import SQUARE, Square
from lightning_cifar.data.labels import list_labels, read_labels
from lightning_cifar.data.layout import find_classes, list_class_files, list_folders
from lightning_cifar.data.memory import find_shortage
from lightning_cifar.data.streaming import ImageFiles
from lightning_cifar.errors import InputError, list_some
from lightning_cifar.files import one_at_a_time, open_atomically

DECODER = b"5"  # version of `images.decode`: increase it when pixels change, and older caches are ignored
Files = dict[str, list[tuple[str, int]]]  # path and label of each image, by part


def load_folder(
    root: Path,
    labels: Path | None = None,
    square: Square = SQUARE,
    in_memory: bool | Literal["auto"] = True,
    class_names: Sequence[str] | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Return the images of a folder (see `layout`), of which none is read yet unless they are kept in memory.

    A CSV file may hold the ``labels``; None: the names of the folders. ``in_memory`` ``auto``: if the images fit in a
    third of the available memory. ``class_names`` are a model's, of which a folder without training images may have
    some only. ``split_seed`` is of the split of a folder without test images.
    """
    names, files = list_images(root, labels, class_names)
    if in_memory == "auto":
        if shortage := find_shortage(sum(map(len, files.values())), square.side):
            print(f"{shortage}: they are read from their files in every epoch", flush=True)
        in_memory = not shortage
    if in_memory:
        parts: Mapping[str, LabelledImages] = load_parts(root, files, square)
    else:
        parts = {part: ImageFiles.make(found, square) for part, found in files.items()}
    listed = [(part, label, make_relative(root, path)) for part, found in files.items() for path, label in found]
    return complete_parts(parts, names, split_seed, root, listed)


def list_images(
    root: Path, labels: Path | None = None, class_names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Files]:
    """Return the class names, and the images of each part, sorted by label and path."""
    paths = list_class_files(root) if labels is None else read_labels(labels, root)
    names = name_classes(labels or root, paths, class_names)
    plain = {"".join(name.casefold().split()): name for name in names}
    if alike := sorted({*names} - {*plain.values()}):
        print(f"warning: {alike[0]!r} differs from another class in case or spaces only: are they one?", flush=True)
    for part, found in paths.items():
        if "train" in paths and (missing := [name for name in names if name not in found]):
            print(f"{part} of {root} has no images of {list_some(missing)}", flush=True)
    return names, {
        part: [(path, label) for label, name in enumerate(names) for path in sorted(found.get(name, ()))]
        for part, found in paths.items()
    }


def list_classes(root: Path, labels: Path | None = None, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the class names, without listing the images."""
    return name_classes(labels or root, list_labels(labels) if labels else find_classes(root), class_names)


def name_classes(place: Path, parts: Mapping[str, Collection[str]], known: Sequence[str] | None) -> tuple[str, ...]:
    """Return the sorted classes of the training images; without any, ``known`` if it includes those of all parts."""
    found = {*parts["train"]} if "train" in parts else {name for names in parts.values() for name in names}
    if "train" not in parts and known and found <= {*known}:
        return tuple(known)
    if len(found) < 2:
        inside = place
        while len(deeper := [one for one in list_folders(inside) if list_folders(one)]) == 1:
            inside = deeper[0]
        hint = f"; is {inside} the one?" if inside != place and len(list_folders(inside)) > 1 else ""
        few = f"{place} needs images of at least two classes, got {', '.join(found) or 'none'}"
        layouts = "train/<class>/* and test/<class>/*, or with <class>/*, or set labels to a CSV file"
        raise InputError(f"{few}: set root to a directory with {layouts}{hint}")
    for part, names in parts.items():
        if extra := sorted({*names} - found):
            raise InputError(f"{part} has the class {extra[0]!r}, train only {list_some(sorted(found))}: rename one")
    return tuple(sorted(found))


def load_parts(root: Path, files: Files, square: Square) -> dict[str, ImageSet]:
    """Read all images into memory, from the cache if it is up to date."""
    state = digest_stats(root, files)
    cache = locate_cache(root, square)
    if (cached := read_cache(cache, state)) is not None:
        return cached
    with one_at_a_time(cache.with_suffix(".lock"), "prepares the data"):  # one process decodes, the others wait
        if (cached := read_cache(cache, state)) is not None:
            return cached
        parts, failures = {}, list[str]()
        for part, found in files.items():
            pixels, failed = decode_all(part, [path for path, _ in found], square)
            failures += failed
            labels = torch.tensor([label for _, label in found], dtype=torch.int64)
            parts[part] = ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels)
        refuse_damaged(failures)
        write_cache(cache, state, parts)
    return parts


def digest_stats(root: Path, files: Files) -> str:
    """Return the SHA-256 of part, label, name, size, modification and change time of all files, and of `DECODER`.

    A change time, unlike a modification time, cannot be set back.
    """
    digest = hashlib.sha256(DECODER)
    for part, found in files.items():
        for path, label in found:
            try:
                stat = os.stat(path)
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}): replace or remove it") from error
            line = f"{part} {label} {make_relative(root, path)}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def make_relative(root: Path, path: str) -> str:
    return path.removeprefix(str(root)).lstrip(os.sep)


def locate_cache(root: Path, square: Square = SQUARE) -> Path:
    """Return ``$XDG_CACHE_HOME/lightning-cifar/<name>-<hash of the full path>.pt``; nothing is written to ``root``.

    Each ``square`` has its own file.
    """
    base = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    full = root.resolve()
    if not os.path.isabs(base):  # containers may have users without a home
        base = os.devnull  # where nothing can be written: `write_cache` warns
    key = hashlib.sha256(bytes(full)).hexdigest()[:12]
    kind = "" if square == SQUARE else f"-{square.side}-{square.rule}"
    return Path(base) / "lightning-cifar" / f"{full.name}-{key}{kind}.pt"


def read_cache(cache: Path, state: str) -> dict[str, ImageSet] | None:
    """Return the cached parts; None if there are none, they are damaged, or an image file has changed since."""
    try:
        stored = torch.load(cache, weights_only=True)
        parts = {part: ImageSet(*tensors) for part, tensors in stored["parts"].items()}
        return parts if stored["state"] == state and stored["fingerprint"] == digest_images(parts.values()) else None
    except Exception:  # missing, or damaged, which fails in many ways
        return None


def write_cache(cache: Path, state: str, parts: dict[str, ImageSet]) -> None:
    """Write the cache atomically; only warn if that fails."""
    tensors = {name: (part.images, part.labels) for name, part in parts.items()}
    content = {"state": state, "fingerprint": digest_images(parts.values()), "parts": tensors}
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(cache, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the decoded images could not be cached in {cache}: {error}", stacklevel=2)
