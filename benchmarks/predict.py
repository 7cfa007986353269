"""Images/s of ``predict --images`` compared with a plain loop of Pillow and torch.

    python benchmarks/predict.py --root DIR

DIR is the data directory. Every second of CIFAR-10's test images, as PNG files, is classified by the packaged model
without test-time augmentation.
``one by one`` opens, converts and classifies one file at a time; ``128 at a time`` is the same loop in batches;
``predict`` is the command, from loading the model to the last row of the CSV; ``predict, bf16`` adds ``--precision
bf16-mixed``. Medians of 3 interleaved rounds, on a GPU if there is one. Prints a table and writes
``benchmarks/results/predict.json``.
"""

import argparse
import contextlib
import csv
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folder import write_folder
from formatting import RESULTS, format_table, keep_median, load_result
from PIL import Image

from lightning_cifar import load_pretrained, main
from lightning_cifar.evaluate.listing import find_images_below
from lightning_cifar.files import compute_digest, write_json
from lightning_cifar.run.records.run_json import describe_device
from lightning_cifar.run.weights import PRETRAINED
from lightning_cifar.train.classifier import ImageClassifier

FORMS = ("one by one", "128 at a time", "predict", "predict, bf16")
BATCH, WARM_UP = 128, 256


@torch.no_grad()
def plain_loop(model: ImageClassifier, files: list[str], batch_size: int) -> list[str]:
    """Return the class of each file by a simple loop."""
    found = []
    for start in range(0, len(files), batch_size):
        pixels = []
        for file in files[start : start + batch_size]:
            with Image.open(file) as image:
                pixels.append(np.array(image.convert("RGB").resize((32, 32))))
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(model.device)
        found += model(images).softmax(1).argmax(1).tolist()
    return [model.hparams["class_names"][index] for index in found]


def command(files: list[str], *options: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        output = Path(folder) / "predictions.csv"
        args = ["--ckpt_path", "pretrained", "--tta", "none", "--output", str(output), *options]
        assert main(["predict", *args, "--images", *files]) == 0
        with output.open(newline="") as opened:
            return [row["class"] for row in csv.DictReader(opened)]


def classify(form: str, model: ImageClassifier, files: list[str]) -> list[str]:
    if form.startswith("predict"):
        return command(files, "--precision", "bf16-mixed" if form.endswith("bf16") else "32-true")
    return plain_loop(model, files, 1 if form == "one by one" else BATCH)


def measure(files: list[str], rounds: int, result_file: Path) -> None:
    model = load_pretrained().to("cuda" if torch.cuda.is_available() else "cpu")
    speeds: dict[str, list[float]] = {form: [] for form in FORMS}
    classes: dict[str, list[str]] = {}
    for form in FORMS:
        classify(form, model, files[:WARM_UP])
    for _ in range(rounds):
        for form in FORMS:
            start = time.perf_counter()
            classes[form] = classify(form, model, files)
            speeds[form].append(len(files) / (time.perf_counter() - start))
    first = FORMS[0]
    forms = {
        form: {
            "images_per_second": keep_median(all_),
            "ratio": statistics.median(a / b for a, b in zip(all_, speeds[first], strict=True)),
            "other_classes": sum(a != b for a, b in zip(classes[form], classes[first], strict=True)),
        }
        for form, all_ in speeds.items()
    }
    result = {
        "question": "How fast is predict --images against a plain loop of Pillow and torch?",
        "command": "python benchmarks/predict.py --root DIR",
        "data": "CIFAR-10, test images as PNG files",
        "model_sha256": compute_digest(PRETRAINED),
        "files": len(files),
        "forms": forms,
        "device": describe_device(model.device),
    }
    write_json(result_file, result)
    print(tabulate(result))


def tabulate(result: dict[str, Any]) -> str:
    rows = []
    for form, found in result["forms"].items():
        speed = f"{found['images_per_second']['median']:,.0f} images/s"
        rows.append([form, speed, f"{found['ratio']:.2f}x", f"{found['other_classes']:,}"])
    head = [f"{result['files']:,} files", "speed", "compared with one by one", "images with another class"]
    return format_table(head, rows, result["command"])


TABLES = {
    "own_images": lambda: tabulate(load_result("predict")),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the data directory")
    parser.add_argument("--files", type=int, help="only so many, for a trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "predict.json")
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(known.root, folder, ("test",))
        measure([*find_images_below(folder)][::2][: known.files], known.rounds, known.output)
