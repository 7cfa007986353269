"""Images/s of loading and augmenting a training batch: ours, whole batches, against torchvision's, image by image.

    python benchmarks/data.py

Both shuffle, flip, crop from 4 pixels of reflect padding and normalise 10,000 random 32x32 images in one process, in
batches of 500. Prints one table and writes ``benchmarks/results/data.json``; runs alternate, medians count.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_cifar.data import augment
from lightning_cifar.data.loader import BatchLoader
from lightning_cifar.data.sources import ImageSet
from lightning_cifar.results.report import write_json
from lightning_cifar.train.classifier import CIFAR10_MEAN, CIFAR10_STD
from lightning_cifar.train.record import describe_device

IMAGES, BATCH, PADDING, REPEATS = 10_000, 500, 4, 7


class PerSample(Dataset):
    """As in torchvision's tutorials: a Pillow image, then one transform after the other."""

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


def ours(loader: BatchLoader) -> None:
    mean, std = (torch.tensor(values)[:, None, None] for values in (CIFAR10_MEAN, CIFAR10_STD))
    for images, _ in loader:
        images = augment.flip(images, augment.draw_flips(len(images)))
        images = augment.crop(images, augment.draw_offsets(len(images), PADDING), PADDING)
        images = ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def theirs(loader: DataLoader) -> None:
    for images, _ in loader:
        images.contiguous(memory_format=torch.channels_last)


def speed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return IMAGES / (time.perf_counter() - start)


def main() -> None:
    torch.manual_seed(0)
    data = ImageSet(torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (IMAGES,)))
    batched, per_sample = BatchLoader(data, BATCH, seed=0), DataLoader(PerSample(data), BATCH, shuffle=True)
    runs: dict[str, list[float]] = {"ours": [], "torchvision": []}
    for _ in range(REPEATS):
        runs["ours"].append(speed(lambda: ours(batched)))
        runs["torchvision"].append(speed(lambda: theirs(per_sample)))
    ratios = [a / b for a, b in zip(runs["ours"], runs["torchvision"], strict=True)]
    result = {
        "question": "How fast are loading, crop, flip and normalisation of whole batches against image by image?",
        "command": "python benchmarks/data.py",
        "images_per_second": {name: {"median": statistics.median(all_), "all": all_} for name, all_ in runs.items()},
        "ratio": {"median": statistics.median(ratios), "all": ratios},
        "device": describe_device(torch.device("cpu")),
        "gpu": "not measured",
    }
    write_json(Path(__file__).parent / "results/data.json", result)
    for name, speeds in runs.items():
        print(f"{name:<12} {statistics.median(speeds):>10,.0f} images/s")
    print(f"{'ratio':<12} {statistics.median(ratios):>10.1f}")


if __name__ == "__main__":
    main()
