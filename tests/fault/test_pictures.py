"""Pictures that are broken in every way: a row each, no traceback, no hang, and little memory."""

import csv
import io
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from harm import LIMIT
from PIL import Image

pytestmark = pytest.mark.fault

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "PCX", "SGI")
MEMORY = 1 << 30  # more than the process has when it begins


def whole(form: str, sample: Path) -> bytes:
    """The sample image in another format."""
    file = io.BytesIO()
    Image.open(sample).resize((48, 40)).save(file, form)
    return file.getvalue()


HARMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut in its header": lambda content, draw: content[: draw.randrange(1, 24)],
    "cut in half": lambda content, draw: content[: len(content) // 2],
    "zeros from its middle": lambda content, draw: content[: len(content) // 2] + bytes(len(content) // 2),
    "noise from its middle": lambda content, draw: content[: len(content) // 2] + draw.randbytes(len(content) // 2),
    "large numbers in its header": lambda content, draw: content[:8] + b"\xff" * 16 + content[24:],
    "its header twice": lambda content, draw: content[:24] + content,
}


def fuzzed(content: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, mostly in the first hundred, where headers are; at times a part is missing or doubled."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 4, 16))):
        changed[draw.randrange(min(len(changed), draw.choice((100, 1 << 20))))] = draw.randrange(256)
    start, end = sorted(draw.randrange(len(changed)) for _ in range(2))
    part = draw.choice((b"", changed[start:end] * 2, *[changed[start:end]] * 6))
    return bytes(changed[:start] + part + changed[end:])


def memory_of(process: int | str, what: str) -> int:
    """``VmRSS``, resident memory, or ``VmHWM``, its peak so far, in bytes; 0 where the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(what))


def note_memory(file: Path) -> None:
    file.write_text(str(memory_of("self", "VmRSS")))


def predicted(start, folder: Path) -> dict[str, str]:
    """The error of each picture in ``folder``, empty where it was read."""
    output, before, peak = folder.parent / "rows.csv", folder.parent / "before", 0
    args = ["predict", "--ckpt_path", "pretrained", "--images", folder, "--output", output]
    child = start(*args, prepare=partial(note_memory, before))
    limit = time.monotonic() + LIMIT
    while child.process.is_alive() and time.monotonic() < limit:
        peak = max(peak, memory_of(child.process.pid, "VmHWM"))
        time.sleep(0.02)
    assert child.wait() in (0, 1), child.output.read_text()
    assert "Traceback" not in child.output.read_text()
    assert peak - int(before.read_text()) < MEMORY
    with output.open(newline="", errors="surrogateescape") as opened:
        return {Path(row["file"]).name: row["error"] for row in csv.DictReader(opened)}


def test_malformed_pictures(start, drawn_folder, tmp_path, survived):
    folder, draw = tmp_path / "pictures", random.Random(0)
    folder.mkdir()
    for form in FORMATS:
        content = whole(form, drawn_folder / "frog/0000.jpg")
        (folder / f"{form}.png").write_bytes(content)  # by its content, whatever it is called
        for harm, harmed in HARMS.items():
            (folder / f"{form}, {harm}.png").write_bytes(harmed(content, draw))
    found = predicted(start, folder)
    assert len(found) == len(FORMATS) * (1 + len(HARMS))
    assert [form for form in FORMATS if found[f"{form}.png"]] == []
    assert sum(error != "" for error in found.values()) > 40
    survived("a malformed picture", len(FORMATS) * len(HARMS))


@pytest.mark.slow
def test_fuzzed_pictures(start, drawn_folder, tmp_path, survived):
    folder, draw, times = tmp_path / "pictures", random.Random(0), 12_000
    contents = [whole(form, drawn_folder / "frog/0000.jpg") for form in FORMATS]
    for first in range(0, times, 3000):  # of which a child has time for all
        folder.mkdir()
        numbers = range(first, min(first + 3000, times))
        for number in numbers:
            (folder / f"{number}.png").write_bytes(fuzzed(contents[number % len(contents)], draw))
        assert len(predicted(start, folder)) == len(numbers)
        shutil.rmtree(folder)
    survived("a picture with random bytes changed", times)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "CMYK"])
def test_large_pictures_need_little_memory(start, tmp_path, survived, mode):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.new(mode, (8000, 8000)).save(folder / f"{number}.tiff")
    assert predicted(start, folder) == {f"{number}.tiff": "" for number in range(6)}
    survived("a picture of 64 million pixels", 6)
