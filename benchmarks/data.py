"""Images/s of loading and augmenting training batches: `BatchLoader` compared with torchvision per image.

    python benchmarks/data.py

Both shuffle, flip, crop with 4 pixels of reflect padding and normalise 10,000 random 32x32 images in one process, in
batches of 500, to channels-last floats on the device. On a GPU, `BatchLoader` keeps the data set there. Medians of 7
interleaved runs; prints a table and writes ``benchmarks/results/data.json``.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from formatting import MISSING, format_table, keep_median, load_result, print_tables, write_result
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_cifar.data import augment
from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.data.loader import BatchLoader
from lightning_cifar.model.normalisation import CIFAR10_MEAN, CIFAR10_STD
from lightning_cifar.run.records.run_json import describe_device

IMAGES, BATCH, PADDING, REPEATS = 10_000, 500, 4, 7


class PerSample(Dataset):
    """Data set that transforms one Pillow image at a time, as in torchvision's tutorials."""

    def __init__(self, data: ImageSet) -> None:
        self.pixels = data.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=PADDING, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(CIFAR10_MEAN, CIFAR10_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def run_batched(loader: BatchLoader) -> None:
    statistics_of_cifar10 = torch.tensor([CIFAR10_MEAN, CIFAR10_STD], device=loader.labels.device)
    for images, _ in loader:
        flips = augment.draw_flips(len(images)).to(images.device)
        offsets = augment.draw_offsets(len(images), PADDING).to(images.device)
        augment.normalise(augment.flip_crop(images, flips, offsets, PADDING), *statistics_of_cifar10)


def run_per_sample(loader: DataLoader, device: str) -> None:
    for images, _ in loader:
        images.to(device).contiguous(memory_format=torch.channels_last)


def measure_speed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return IMAGES / (time.perf_counter() - start)


def compare(data: ImageSet, device: str) -> dict[str, Any]:
    """Measure images/s of both on ``device``, their ratio, and our milliseconds per batch."""
    batched = BatchLoader(data, BATCH, seed=0, device=device)
    per_sample = DataLoader(PerSample(data), BATCH, shuffle=True)
    runs: dict[str, list[float]] = {"ours": [], "torchvision": []}
    run_batched(batched)  # warm-up
    for _ in range(REPEATS):
        runs["ours"].append(measure_speed(lambda: run_batched(batched)))
        runs["torchvision"].append(measure_speed(lambda: run_per_sample(per_sample, device)))
    ratios = [a / b for a, b in zip(runs["ours"], runs["torchvision"], strict=True)]
    return {
        "images_per_second": {name: keep_median(all_) for name, all_ in runs.items()},
        "ratio": keep_median(ratios),
        "milliseconds_per_batch": 1000 * BATCH / statistics.median(runs["ours"]),
        "device": describe_device(torch.device(device)),
    }


def main() -> None:
    torch.manual_seed(0)
    data = ImageSet(torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (IMAGES,)))
    result = {
        "question": "How fast are loading, crop, flip and normalisation of whole batches against image by image?",
        "command": "python benchmarks/data.py",
        "cpu": compare(data, "cpu"),
        "gpu": compare(data, "cuda") if torch.cuda.is_available() else MISSING,
    }
    write_result("data", result)
    print_tables(TABLES)


def tabulate() -> str:
    result = load_result("data")
    found = result["cpu"]
    ours, theirs = (f"{found['images_per_second'][name]['median']:,.0f} images/s" for name in ("ours", "torchvision"))
    cells = [ours, theirs, f"{found['ratio']['median']:.0f}x", f"{found['milliseconds_per_batch']:.1f} ms"]
    head = ["whole batches", "torchvision, image by image", "ratio", "a batch of 500"]
    return format_table(head, [cells], result["command"])


TABLES = {
    "data": tabulate,
}


if __name__ == "__main__":
    main()
