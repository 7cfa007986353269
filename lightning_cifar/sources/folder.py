"""An image folder: read into memory, or from its files when they are due."""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_cifar.data.dataset import Dataset, ImageSet, LabelledImages, report_untrained, stratified_split
from lightning_cifar.data.square import SQUARE, Square
from lightning_cifar.errors import InputError, list_some
from lightning_cifar.sources.cache import Files, digest_stats, locate_cache, make_relative, read_cache, write_cache
from lightning_cifar.sources.decoding import decode_all, refuse_damaged
from lightning_cifar.sources.labels import list_labels, read_labels
from lightning_cifar.sources.layout import find_classes, list_class_files, list_folders
from lightning_cifar.sources.locks import one_at_a_time
from lightning_cifar.sources.memory import find_shortage
from lightning_cifar.sources.streaming import ImageFiles


def load(options: Mapping[str, Any], root: Path) -> Dataset:
    labels, square = find_labels(options["labels"], root), Square(options["image_size"], options["non_square"])
    return load_folder(root, labels, square, options["in_memory"], options["classes"], options["split_seed"])


def count_classes(options: Mapping[str, Any], root: Path) -> int:
    return len(list_classes(root, find_labels(options["labels"], root), options["classes"]))


def find_labels(labels: str | None, root: Path) -> Path | None:
    """Return the file ``labels``, which may be given relative to ``root``."""
    if labels is None:
        return None
    file = Path(os.path.expanduser(labels))
    return root / file if not file.exists() and (root / file).exists() else file


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
        if place.is_file():
            raise InputError(f"{few}: add rows of other classes, of the split train if there are splits")
        layouts = "train/<class>/* and test/<class>/*, or with <class>/*, or set labels to a CSV file"
        raise InputError(f"{few}: set root to a directory with {layouts}{hint}")
    for part, names in parts.items():
        if extra := sorted({*names} - found):
            only = f"train only {list_some(sorted(found))}"
            raise InputError(f"{part} has the class {extra[0]!r}, {only}: rename one in {place}")
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


def complete_parts(
    parts: Mapping[str, LabelledImages], class_names: tuple[str, ...], split_seed: int, root: Path, listed: list[Any]
) -> Dataset:
    """Return the dataset of a folder that has some of the parts ``train``, ``val`` and ``test``.

    Without ``test``, a line says which images are tested: those of ``val``; or, of ``train`` only, a stratified fifth,
    at least one for each class. ``split_seed`` and the ``listed`` part, label and name of each file decide which.
    """
    train, val, test = (parts.get(part) for part in ("train", "val", "test"))
    tested = next(one for one in ("test", "val", "train") if one in parts)
    files = [name for part, _, name in listed if part == tested]
    split = None
    if test is None and val is not None:
        print(f"{root} has no test images: test evaluates the validation images", flush=True)
        test, split = val, "none: test evaluates the validation images"
    elif test is None:
        assert train is not None
        size = min(max(len(train) // 5, len(class_names)), len(train) - 1)
        rest, chosen = stratified_split(train.labels, size, split_seed)
        some = f"{size:,} of its {len(train):,} images of {len(class_names)} classes ({list_some(class_names)})"
        print(f"{root} has no test images: split_seed {split_seed} chooses {some}", flush=True)
        files = [files[one] for one in chosen.tolist()]
        digest = hashlib.sha256(repr(listed).encode()).hexdigest()
        report_untrained(train.labels[rest], class_names, "test")
        train, test, split = train[rest], train[chosen], f"split_seed {split_seed}, list of files {digest[:12]}"
    if train is None:
        train, val = test[:0], test[:0] if val is None else val
    return Dataset(train, val, test, class_names, split, tuple(files))
