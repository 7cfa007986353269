"""Decoding of many image files in threads: Pillow releases the interpreter lock."""

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from lightning_cifar.data.square import Square
from lightning_cifar.errors import InputError
from lightning_cifar.sources.images import decode

MOST_NAMED = 50  # damaged files in one message
AHEAD = 1000  # files that are decoded before their pixels are used


def decode_all(name: str, paths: Sequence[str], square: Square) -> tuple[np.ndarray, list[str]]:
    """Return the pixels of all files, uint8 (N, side, side, 3), and a line for each that cannot be decoded."""
    pixels, failures = np.empty((len(paths), square.side, square.side, 3), np.uint8), []
    for index, image in enumerate(iterate_images(f"decoding {name}", paths, square)):
        if isinstance(image, str):
            failures.append(image)
        else:
            pixels[index] = image
    return pixels, failures


def iterate_images(activity: str, paths: Sequence[str], square: Square) -> Iterator[np.ndarray | str]:
    """Yield the pixels of each file, or why it cannot be decoded, with a progress bar on a terminal."""
    with warnings.catch_warnings(), ThreadPoolExecutor(count_cores()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF or palettes, but reads the pixels
        with tqdm(total=len(paths), desc=activity, disable=None) as bar:
            for start in range(0, len(paths), AHEAD):
                for image in pool.map(lambda path: try_decode(path, square), paths[start : start + AHEAD]):
                    bar.update()
                    yield image


def try_decode(path: str, square: Square) -> np.ndarray | str:
    try:
        return decode(path, square)
    except InputError as error:
        return str(error)


def refuse_damaged(failures: Sequence[str]) -> None:
    """Raise an `InputError` that names the files which cannot be decoded, if there are any."""
    if failures:
        more = [f"and {len(failures) - MOST_NAMED} more"] if len(failures) > MOST_NAMED else []
        raise InputError("; ".join([*failures[:MOST_NAMED], *more]))


def count_cores() -> int:
    """Return the number of cores that this process may use; torch warns of more data loader workers than that."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
