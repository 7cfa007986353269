"""Time to read an image folder, first by decoding every image, then from the cache.

    python benchmarks/folder.py --root DIR

DIR is the data directory; CIFAR-10's images are first written as PNG files. The clock covers everything before the
first batch: listing and checking files, reading, splitting, statistics. One first read, median of 5 cached ones, on a
CPU. Writes ``benchmarks/results/folder.json``.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from formatting import keep_median, write_result
from PIL import Image

from lightning_cifar import CIFAR10DataModule
from lightning_cifar.run.records.run_json import describe_device

REPEATS = 5


def write_folder(root: str, folder: str, parts: tuple[str, ...] = ("train", "test")) -> None:
    """Write CIFAR-10 as an image folder: ``train/<class>/<number>.png``."""
    data = CIFAR10DataModule("cifar10", root).read()
    for part in parts:
        images = getattr(data, part)
        pixels = images.images.permute(0, 2, 3, 1).numpy()
        for number, (picture, label) in enumerate(zip(pixels, images.labels.tolist(), strict=True)):
            file = Path(folder, part, data.class_names[label], f"{number:05}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)


def time_reading(root: str) -> tuple[float, int]:
    start = time.perf_counter()
    data = CIFAR10DataModule("folder", root)
    data.prepare_data()
    data.setup()
    return time.perf_counter() - start, len(data.dataset.train) + len(data.dataset.test)


def main(root: str) -> None:
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        write_folder(root, folder)
        os.environ["XDG_CACHE_HOME"] = cache
        first, files = time_reading(folder)
        later = [time_reading(folder)[0] for _ in range(REPEATS)]
    result = {
        "question": "How long does it take to read an image folder, first and from the cache?",
        "command": "python benchmarks/folder.py --root DIR",
        "data": f"CIFAR-10, {files:,} PNG files",
        "first_seconds": first,
        "cached_seconds": keep_median(later),
        "device": describe_device(torch.device("cpu")),
    }
    write_result("folder", result)
    print(f"{files:,} files: first {first:.1f} s, from the cache {statistics.median(later):.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    main(parser.parse_args().root)
