"""predict on malformed images: one row each, no traceback, no hang, and limited memory."""

import csv
import io
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.children import LIMIT

pytestmark = pytest.mark.fault

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "PCX", "SGI")
MEMORY = 1 << 30  # bytes by which the memory of the process may grow


def encode(image_format: str, sample: Path) -> bytes:
    """Return the sample image, encoded in another format."""
    file = io.BytesIO()
    Image.open(sample).resize((48, 40)).save(file, image_format)
    return file.getvalue()


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated in the header": lambda content, draw: content[: draw.randrange(1, 24)],
    "truncated to half": lambda content, draw: content[: len(content) // 2],
    "second half zeros": lambda content, draw: content[: len(content) // 2] + bytes(len(content) // 2),
    "second half noise": lambda content, draw: content[: len(content) // 2] + draw.randbytes(len(content) // 2),
    "large numbers in the header": lambda content, draw: content[:8] + b"\xff" * 16 + content[24:],
    "header twice": lambda content, draw: content[:24] + content,
}


def fuzz(content: bytes, draw: random.Random) -> bytes:
    """Change a few bytes, mostly among the first hundred (headers); sometimes drop or repeat a range of bytes."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 4, 16))):
        changed[draw.randrange(min(len(changed), draw.choice((100, 1 << 20))))] = draw.randrange(256)
    start, end = sorted(draw.randrange(len(changed)) for _ in range(2))
    middle = draw.choice((b"", changed[start:end] * 2, *[changed[start:end]] * 6))
    return bytes(changed[:start] + middle + changed[end:])


def read_memory(process: int | str, field: str) -> int:
    """Return the resident memory (``VmRSS``) or its peak (``VmHWM``) in bytes; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def write_memory(file: Path) -> None:
    file.write_text(str(read_memory("self", "VmRSS")))


def predict(start, folder: Path) -> dict[str, str]:
    """Predict the images of a folder and return the error of each file, empty if it was read."""
    output, before, peak = folder.parent / "rows.csv", folder.parent / "before", 0
    args = ["predict", "--ckpt_path", "pretrained", "--images", folder, "--output", output]
    child = start(*args, prepare=partial(write_memory, before))
    limit = time.monotonic() + LIMIT
    while child.process.is_alive() and time.monotonic() < limit:
        peak = max(peak, read_memory(child.process.pid, "VmHWM"))
        time.sleep(0.02)
    assert child.wait() in (0, 1), child.output.read_text()
    assert "Traceback" not in child.output.read_text()
    assert peak - int(before.read_text()) < MEMORY
    with output.open(newline="", errors="surrogateescape") as opened:
        return {Path(row["file"]).name: row["error"] for row in csv.DictReader(opened)}


@pytest.mark.slow
def test_malformed_images_give_an_error_each(start, drawn_folder, tmp_path, record_survival):
    folder, draw = tmp_path / "images", random.Random(0)
    folder.mkdir()
    for image_format in FORMATS:
        content = encode(image_format, drawn_folder / "frog/0000.jpg")
        (folder / f"{image_format}.png").write_bytes(content)  # the suffix does not matter
        for name, damage in DAMAGES.items():
            (folder / f"{image_format}, {name}.png").write_bytes(damage(content, draw))
    found = predict(start, folder)
    assert len(found) == len(FORMATS) * (1 + len(DAMAGES))
    assert [name for name in FORMATS if found[f"{name}.png"]] == []
    assert sum(error != "" for error in found.values()) > 40
    record_survival("a malformed image", len(FORMATS) * len(DAMAGES))


@pytest.mark.long
def test_fuzzed_images_give_a_row_each(start, drawn_folder, tmp_path, record_survival):
    folder, draw, times = tmp_path / "images", random.Random(0), 12_000
    contents = [encode(name, drawn_folder / "frog/0000.jpg") for name in FORMATS]
    for first in range(0, times, 3000):  # as many as a child can read within its time limit
        folder.mkdir()
        numbers = range(first, min(first + 3000, times))
        for number in numbers:
            (folder / f"{number}.png").write_bytes(fuzz(contents[number % len(contents)], draw))
        assert len(predict(start, folder)) == len(numbers)
        shutil.rmtree(folder)
    record_survival("an image with random bytes changed", times)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "CMYK"])
def test_large_images_need_limited_memory(start, tmp_path, record_survival, mode):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.new(mode, (8000, 8000)).save(folder / f"{number}.tiff")
    assert predict(start, folder) == {f"{number}.tiff": "" for number in range(6)}
    record_survival("an image of 64 million pixels", 6)
