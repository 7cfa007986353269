"""An image folder, ``train/<class>/*``, ``test/<class>/*`` and optionally ``val/<class>/*``, as a `Dataset`.

How a file becomes 32x32 RGB, the same for every file:
EXIF orientation is applied; of an animation the first frame is taken; 16-bit greys keep their upper 8 bits; alpha is
composited over white; greyscale, palette, CMYK ... become RGB; other sizes are cut to the centred square and resized
with antialiasing; of a JPEG whose sides are many times as long, half, a quarter or an eighth is decoded, but no side
below 128, which is several times as fast.

Decoding 60,000 files takes tens of seconds, so the tensors are cached, and the cache is used only while name, size and
times of every file are the ones it was made from and its own pixels have the recorded fingerprint.
"""

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lightning_cifar.data.dataset import Dataset, ImageSet
from lightning_cifar.data.images import SIZE, decode
from lightning_cifar.errors import InputError
from lightning_cifar.files import one_at_a_time

PARTS = ("train", "val", "test")
RULE = b"2"  # the version of how a file becomes 32x32 pixels: what was cached by another is decoded again


def load_folder(root: Path) -> Dataset:
    """Reads the image folder ``root``; a second read comes from the cache."""
    class_names = folder_classes(root)
    files = {part: list_files(root / part, class_names) for part in PARTS if (root / part).is_dir()}
    state = stat_digest(root, (path for part in files.values() for path, _ in part))
    file = cache_file(root)
    if (cached := read_cache(file, state)) is not None:
        return cached
    with contextlib.suppress(OSError):  # where there can be no directory, there can be no cache
        file.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(file.with_suffix(".lock"), "prepares the data"):  # of the processes of a run, one decodes
        if (cached := read_cache(file, state)) is not None:
            return cached
        decoded = {part: decode_all(part, files[part]) for part in files}
        dataset = Dataset(decoded["train"], decoded.get("val"), decoded["test"], class_names)
        write_cache(file, state, dataset)
    return dataset


def folder_classes(root: Path) -> tuple[str, ...]:
    """The class names of an image folder, sorted: the sub-folders of ``train``, repeated by ``test`` and ``val``."""
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise InputError(
                f"{root / part} is not a directory: an image folder holds train/<class>/* and test/<class>/*; "
                "name another by --data.root"
            )
    names = {
        part: {entry.name for entry in os.scandir(root / part) if entry.is_dir() and not entry.name.startswith(".")}
        for part in PARTS
        if (root / part).is_dir()
    }
    if len(names["train"]) < 2:
        raise InputError(f"{root / 'train'} holds {len(names['train'])} class folders: at least two are needed")
    for part, found in names.items():
        if found != names["train"]:
            extra, missing = sorted(found - names["train"]), sorted(names["train"] - found)
            difference = f"has {extra[0]!r}, train has not" if extra else f"lacks {missing[0]!r}, which train has"
            raise InputError(f"{root / part} {difference}: give both the same class folders")
    return tuple(sorted(names["train"]))


def list_files(part: Path, class_names: tuple[str, ...]) -> list[tuple[str, int]]:
    """All (file, label) below ``part``, sorted; hidden files are passed over. Plain strings: 60,000 Paths take 1 s."""
    files: list[tuple[str, int]] = []
    for label, name in enumerate(class_names):
        entries = [entry for entry in os.scandir(part / name) if not entry.name.startswith(".")]
        if odd := [entry.path for entry in entries if not is_file(entry)]:  # a pipe would be waited for
            raise InputError(f"{min(odd)} is no file, nor a link to one: remove it from the class folder")
        found = sorted(entry.path for entry in entries)
        if not found:
            raise InputError(f"{part / name} is empty: add images or remove the class from every part")
        files += [(path, label) for path in found]
    return files


def is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def decode_all(part: str, files: list[tuple[str, int]]) -> ImageSet:
    """Decodes in threads (Pillow's decoders release the interpreter lock), with a progress bar on a terminal."""
    pixels = np.empty((len(files), SIZE, SIZE, 3), np.uint8)
    with warnings.catch_warnings(), ThreadPoolExecutor(available_cores()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF or palettes: the pixels are read all the same
        decoded = pool.map(decode, [path for path, _ in files])
        for index, image in enumerate(tqdm(decoded, f"decoding {part}", len(files), disable=None)):
            pixels[index] = image
    return ImageSet(
        torch.from_numpy(pixels).permute(0, 3, 1, 2),
        torch.tensor([label for _, label in files], dtype=torch.int64),
    )


def available_cores() -> int:
    """Cores that this process may use: threads that decode, or worker processes, of which torch warns of more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stat_digest(root: Path, paths: Iterable[str]) -> str:
    """SHA-256 of `RULE` and of name, size, modification and change time of all files; the last cannot be set back."""
    digest = hashlib.sha256(RULE)
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): replace or remove it") from error
        name = path.removeprefix(str(root)).lstrip(os.sep)
        line = f"{name}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def cache_file(root: Path) -> Path:
    """``$XDG_CACHE_HOME/lightning-cifar/<name>-<hash of the full path>.pt``: the image folder itself stays as it is."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    full = root.resolve()
    return base / "lightning-cifar" / f"{full.name}-{hashlib.sha256(bytes(full)).hexdigest()[:12]}.pt"


def read_cache(cache: Path, state: str) -> Dataset | None:
    """The cached dataset, or None where there is none, it is damaged, or any image file changed since."""
    if not cache.exists():
        return None
    try:
        stored = torch.load(cache, weights_only=True)
        parts = {part: ImageSet(*tensors) for part, tensors in stored["parts"].items()}
        dataset = Dataset(parts["train"], parts.get("val"), parts["test"], tuple(stored["class_names"]))
        return dataset if stored["state"] == state and stored["fingerprint"] == dataset.fingerprint() else None
    except Exception:  # a damaged file fails in many ways; all of them mean: decode again
        return None


def write_cache(cache: Path, state: str, dataset: Dataset) -> None:
    """Writes the cache, whole or not at all; a cache that cannot be written costs time, never the run."""
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    content = {
        "state": state,
        "fingerprint": dataset.fingerprint(),
        "class_names": list(dataset.class_names),
        "parts": {name: (part.images, part.labels) for name, part in parts.items() if isinstance(part, ImageSet)},
    }
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as file:
            try:
                torch.save(content, file)
                os.replace(file.name, cache)
            except BaseException:
                os.unlink(file.name)
                raise
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the decoded images could not be cached in {cache}: {error}", stacklevel=2)
