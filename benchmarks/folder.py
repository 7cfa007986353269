"""Time to read an image folder, first by decoding every image, then from the cache.

    python benchmarks/folder.py --root DIR

The clock covers everything before the first batch: listing and checking files, reading, splitting, statistics. One
first read, median of 5 cached ones, on a CPU. Writes ``benchmarks/results/folder.json``.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from lightning_cifar import CIFAR10DataModule
from lightning_cifar.files import write_json
from lightning_cifar.run.record import describe_device

REPEATS = 5


def time_reading(root: str) -> tuple[float, int]:
    start = time.perf_counter()
    data = CIFAR10DataModule("folder", root)
    data.prepare_data()
    data.setup()
    return time.perf_counter() - start, len(data.dataset.train) + len(data.dataset.test)


def main(root: str) -> None:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        first, files = time_reading(root)
        later = [time_reading(root)[0] for _ in range(REPEATS)]
    result = {
        "question": "How long does it take to read an image folder, first and from the cache?",
        "command": "python benchmarks/folder.py --root DIR",
        "data": f"CIFAR-10 (JPEG), {files:,} files",
        "first_seconds": first,
        "cached_seconds": {"median": statistics.median(later), "all": later},
        "device": describe_device(torch.device("cpu")),
    }
    write_json(Path(__file__).parent / "results/folder.json", result)
    print(f"{files:,} files: first {first:.1f} s, from the cache {statistics.median(later):.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the image folder")
    main(parser.parse_args().root)
