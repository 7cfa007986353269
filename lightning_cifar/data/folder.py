"""An image folder, ``train/<class>/*``, ``test/<class>/*`` and optionally ``val/<class>/*``: listed, decoded, cached.

The parts may have the other names in `PARTS`. Files that are not images are passed over, with a line.

Decoding 60,000 files takes tens of seconds, so the decoded images are cached. The cache is used only while name, size
and times of every file are unchanged and the cached images have the recorded fingerprint.
"""

import contextlib
import hashlib
import os
import unicodedata
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lightning_cifar.data.dataset import Dataset, ImageSet
from lightning_cifar.data.images import SIZE, decode, is_image
from lightning_cifar.errors import InputError
from lightning_cifar.files import one_at_a_time, open_atomically

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
MOST_NAMED = 50  # damaged files in one message
DECODER = b"3"  # version of `images.decode`: increase it when pixels change, and older caches are ignored


def load_folder(root: Path) -> Dataset:
    """Read the image folder ``root`` into memory, from the cache if it is up to date."""
    class_names, files = list_parts(root)
    state = digest_stats(root, (path for part in files.values() for path, _ in part))
    cache = locate_cache(root)
    if (cached := read_cache(cache, state)) is not None:
        return cached
    with contextlib.suppress(OSError):  # without a directory there is no cache
        cache.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(cache.with_suffix(".lock"), "prepares the data"):  # one process decodes, the others wait
        if (cached := read_cache(cache, state)) is not None:
            return cached
        decoded, failures = {}, []
        for part in files:
            try:
                decoded[part] = decode_all(part, files[part])
            except InputError as error:
                failures.append(str(error))
        if failures:
            raise InputError("; ".join(failures))
        dataset = Dataset(decoded["train"], decoded.get("val"), decoded["test"], class_names)
        write_cache(cache, state, dataset)
    return dataset


def list_parts(root: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]:
    """Return the class names, and the (file, label) pairs of each part that exists."""
    classes, skipped = find_classes(root), list[str]()
    files = {part: list_files(folders, skipped) for part, folders in classes.items()}
    if skipped:
        print(f"{len(skipped)} files are not images and are passed over: {skipped[0]} ...", flush=True)
    others = {one for one in root.iterdir() if one.is_dir() and one.name[0] != "."} - {*find_parts(root).values()}
    if names := ", ".join(sorted(one.name for one in others)):
        print(f"folders of {root} that are none of {', '.join(PARTS)} are passed over: {names}", flush=True)
    return tuple(sorted(classes["train"])), files


def find_parts(root: Path) -> dict[str, Path]:
    """Return the directory of each part in `PARTS` that ``root`` has, in upper or lower case."""
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        part = next((part for part, names in PARTS.items() if path.name.lower() in names), None)
        if part and path.is_dir():
            if part in found:
                raise InputError(f"{found[part]} and {path} are both {part}: keep one of them")
            found[part] = path
    return {part: found[part] for part in PARTS if part in found}


def list_classes(root: Path) -> tuple[str, ...]:
    """Return the sorted class names."""
    return tuple(sorted(find_classes(root)["train"]))


def find_classes(root: Path) -> dict[str, dict[str, str]]:
    """Return each part's class folders by name: the sub-folders of ``train``, which ``test`` and ``val`` must repeat.

    Names are composed (NFC): macOS may decompose their accents, which nobody sees.
    """
    parts, names = find_parts(root), {}
    for part in ("train", "test"):
        if part not in parts:
            raise InputError(
                f"{root / part} is not a directory: an image folder holds train/<class>/* and test/<class>/*; "
                "set root to one that does"
            )
    for part, folder in parts.items():
        paths = [one.path for one in os.scandir(folder) if one.is_dir() and not one.name.startswith(".")]
        names[part] = {unicodedata.normalize("NFC", os.path.basename(path)): path for path in sorted(paths)}
        if len(names[part]) < len(paths):
            raise InputError(f"{folder} has two class folders whose names differ only in Unicode form: merge them")
    if len(train := names["train"]) < 2:
        raise InputError(f"{parts['train']} holds {len(train)} class folders: at least two are needed")
    for part, found in names.items():
        if found.keys() != train.keys():
            extra, missing = sorted(found.keys() - train), sorted(train.keys() - found)
            difference = f"has {extra[0]!r}, train has not" if extra else f"lacks {missing[0]!r}, which train has"
            raise InputError(f"{parts[part]} {difference}: give both the same class folders")
    return names


def list_files(folders: dict[str, str], skipped: list[str]) -> list[tuple[str, int]]:
    """Return all (file, label) of a part, sorted, without hidden files. Strings: 60,000 Paths would take 1 s.

    Files that are not images are added to ``skipped``.
    """
    files: list[tuple[str, int]] = []
    for label, name in enumerate(sorted(folders)):
        entries = [entry for entry in os.scandir(folders[name]) if not entry.name.startswith(".")]
        if odd := [entry.path for entry in entries if not is_file(entry)]:  # reading a pipe would block
            raise InputError(f"{min(odd)} is not a file: remove it from the class folder")
        paths = sorted(entry.path for entry in entries)
        images = [path for path in paths if is_image(path)]
        if not images:
            raise InputError(f"{folders[name]} is empty of images: add images or remove the class from every part")
        skipped += sorted(set(paths) - set(images))
        files += [(path, label) for path in images]
    return files


def is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def decode_all(part: str, files: list[tuple[str, int]]) -> ImageSet:
    """Decode in threads (Pillow releases the interpreter lock), with a progress bar on a terminal.

    Raises:
        InputError: files cannot be decoded; it names all of them.
    """
    pixels, failures = np.empty((len(files), SIZE, SIZE, 3), np.uint8), []
    with warnings.catch_warnings(), ThreadPoolExecutor(count_cores()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF or palettes, but reads the pixels
        decoded = [pool.submit(decode, path) for path, _ in files]
        for index, image in enumerate(tqdm(decoded, f"decoding {part}", len(files), disable=None)):
            try:
                pixels[index] = image.result()
            except InputError as error:
                failures.append(str(error))
    if failures:
        more = [f"and {len(failures) - MOST_NAMED} more"] if len(failures) > MOST_NAMED else []
        raise InputError("; ".join(failures[:MOST_NAMED] + more))
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels)


def count_cores() -> int:
    """Return the number of cores that this process may use; torch warns of more data loader workers than that."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def digest_stats(root: Path, paths: Iterable[str]) -> str:
    """Return the SHA-256 of name, size, modification and change time of all files, and of `DECODER`.

    A change time, unlike a modification time, cannot be set back.
    """
    digest = hashlib.sha256(DECODER)
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): replace or remove it") from error
        name = path.removeprefix(str(root)).lstrip(os.sep)
        line = f"{name}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def locate_cache(root: Path) -> Path:
    """Return ``$XDG_CACHE_HOME/lightning-cifar/<name>-<hash of the full path>.pt``; nothing is written to ``root``."""
    base = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    full = root.resolve()
    if not os.path.isabs(base):  # containers may have users without a home
        base = os.devnull  # where nothing can be written: `write_cache` warns
    return Path(base) / "lightning-cifar" / f"{full.name}-{hashlib.sha256(bytes(full)).hexdigest()[:12]}.pt"


def read_cache(cache: Path, state: str) -> Dataset | None:
    """Return the cached dataset; None if there is none, it is damaged, or an image file has changed since."""
    try:
        stored = torch.load(cache, weights_only=True)
        parts = {part: ImageSet(*tensors) for part, tensors in stored["parts"].items()}
        dataset = Dataset(parts["train"], parts.get("val"), parts["test"], tuple(stored["class_names"]))
        return dataset if stored["state"] == state and stored["fingerprint"] == dataset.fingerprint() else None
    except Exception:  # missing, or damaged, which fails in many ways
        return None


def write_cache(cache: Path, state: str, dataset: Dataset) -> None:
    """Write the cache atomically; only warn if that fails."""
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    content = {
        "state": state,
        "fingerprint": dataset.fingerprint(),
        "class_names": list(dataset.class_names),
        "parts": {name: (part.images, part.labels) for name, part in parts.items() if isinstance(part, ImageSet)},
    }
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(cache, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the decoded images could not be cached in {cache}: {error}", stacklevel=2)
