"""Speed, size and accuracy of the packaged model in torch and ONNX Runtime.

    python benchmarks/export.py --root DIR

DIR is the data directory. Compares torch eager (float32, bfloat16 autocast) with ONNX Runtime (float32, and
int8 calibrated on training images) on a CPU with default thread counts: uint8 images to logits, batches of 256 and of
1, medians of 5 interleaved runs. Accuracy is over all test images without test-time augmentation. Prints a table and
writes ``benchmarks/results/export.json``.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from formatting import RESULTS, format_percent, format_table, keep_median, load_result
from torch import Tensor

from lightning_cifar import CIFAR10DataModule, load_pretrained
from lightning_cifar.commands.export.check_images import CALIBRATING
from lightning_cifar.commands.export.command import SUFFIXES
from lightning_cifar.commands.export.formats import FORMATS, open_onnx, write_onnx
from lightning_cifar.commands.export.quantise import quantise
from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.files import compute_digest, write_json
from lightning_cifar.run.records.run_json import describe_device
from lightning_cifar.run.weights import PRETRAINED

BATCHES = {256: 4, 1: 100}  # size of a batch: how many are timed at once
REPEATS, SETTLING = 5, 1
Classifier = Callable[[Tensor], Tensor]


def prepare_ways(calibration: Tensor, folder: Path) -> tuple[dict[str, Classifier], dict[str, int]]:
    """Return each way to the logits of uint8 images, and file sizes in bytes."""
    model = load_pretrained()

    def mixed(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(images).float()

    sizes = {}
    for form, suffix in SUFFIXES.items():
        write, _ = FORMATS[form]
        write(model, folder / f"model{suffix}", {"held_out": "test"})
        sizes[form] = (folder / f"model{suffix}").stat().st_size
    small = folder / "int8.onnx"
    write_onnx(model, small, {})
    quantise(small, calibration)
    sizes["onnx, int8"] = small.stat().st_size
    found = {
        "torch, float32": model,
        "torch, bfloat16 autocast": mixed,
        "ONNX Runtime, float32": open_onnx(folder / "model.onnx"),
        "ONNX Runtime, int8": open_onnx(small),
    }
    return found, sizes


def measure_speeds(answers: dict[str, Classifier], images: Tensor, size: int, count: int) -> dict[str, list[float]]:
    """Measure images/s of each way, run by run."""
    batches = images[: size * count].split(size)
    taken: dict[str, list[float]] = {name: [] for name in answers}
    for turn in range(SETTLING + REPEATS):
        for name, answer in answers.items():
            start = time.perf_counter()
            for batch in batches:
                answer(batch)
            if turn >= SETTLING:
                taken[name].append(sum(map(len, batches)) / (time.perf_counter() - start))
    return taken


@torch.inference_mode()
def measure(train: ImageSet, test: ImageSet, folder: Path) -> dict[str, Any]:
    answers, sizes = prepare_ways(train.sample(CALIBRATING).images, folder)
    predicted = {
        name: torch.cat([answer(batch) for batch in test.images.split(256)]).argmax(1)
        for name, answer in answers.items()
    }
    first = predicted["torch, float32"]
    timed = {size: measure_speeds(answers, test.images, size, count) for size, count in BATCHES.items()}
    return {
        "ways": {
            name: {
                "accuracy": float((predicted[name] == test.labels).double().mean()),
                "same_class": float((predicted[name] == first).double().mean()),
                "images_per_second": {str(size): keep_median(taken[name]) for size, taken in timed.items()},
            }
            for name in answers
        },
        "bytes": sizes | {"pretrained": PRETRAINED.stat().st_size},
    }


def main(root: str, images: int | None, output: Path) -> None:
    data = CIFAR10DataModule("cifar10", root).read()
    test = data.test if images is None else data.test.sample(images)
    with TemporaryDirectory() as folder:
        found = measure(data.train, test, Path(folder))
    result = {
        "question": "What do exported models give, by ONNX Runtime and in int8?",
        "command": "python benchmarks/export.py --root DIR",
        "data": f"CIFAR-10, {len(test):,} test images",
        "model_sha256": compute_digest(PRETRAINED),
        **found,
        "device": describe_device(torch.device("cpu")),
    }
    write_json(output, result)
    print(tabulate(result))


def tabulate(result: dict[str, Any]) -> str:
    rows = []
    files = {"ONNX Runtime, float32": "onnx", "ONNX Runtime, int8": "onnx, int8", "torch, float32": "safetensors"}
    for way, found in result["ways"].items():
        size = f"{result['bytes'][files[way]] / 1e6:.1f} MB" if way in files else ""
        speed = [f"{found['images_per_second'][batch]['median']:,.0f} images/s" for batch in ("256", "1")]
        rows.append([way, size, *speed, format_percent(found["accuracy"]), format_percent(found["same_class"])])
    head = [result["data"], "file", "batches of 256", "of 1", "accuracy", "same class as torch, float32"]
    return format_table(head, rows, result["command"])


TABLES = {
    "export": lambda: tabulate(load_result("export")),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--images", type=int, help="number of test images; default: all")
    parser.add_argument("--output", type=Path, default=RESULTS / "export.json")
    known = parser.parse_args()
    main(known.root, known.images, known.output)
