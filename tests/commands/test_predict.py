"""`predict --images`: own pictures in every form that they come in, well or ill meant; a row each."""

import csv
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar import ImageClassifier, main
from lightning_cifar.data.folder import read_image

COLOURS = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)


@pytest.fixture
def checkpoint(trained) -> Path:
    return trained / "checkpoints/last.ckpt"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of five pictures, one below another, and of what is none."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "c.webp", "below/d.bmp", "below/E.JPEG"):
        pixels = np.roll(COLOURS, len(name) * ord(name[-5]), axis=(0, 1))
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("")
    (folder / ".hidden.png").write_text("")
    return folder


def run(capsys, *args) -> tuple[int, str, str]:
    status = main(["predict", *map(str, args)])
    return status, *capsys.readouterr()


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_row_for_each_picture_as_the_model_says(checkpoint, pictures, capsys):
    status, out, _ = run(capsys, "--ckpt_path", checkpoint, "--images", pictures, "--top", "2", "--batch_size", "2")
    rows = table(out)
    names = ["a.jpg", "b.png", "c.webp", "below/E.JPEG", "below/d.bmp"]
    assert (status, [row["file"] for row in rows]) == (0, [str(pictures / name) for name in names])
    model = ImageClassifier.load_from_checkpoint(checkpoint).eval()
    for row in rows:
        pixels = torch.from_numpy(read_image(row["file"]).copy()).permute(2, 0, 1)[None]
        likeliest = model.predict_step(pixels, 0)[0].topk(2)
        assert [row["class"], row["class2"]] == [model.hparams["class_names"][k] for k in likeliest.indices]
        assert [float(row["probability"]), float(row["probability2"])] == pytest.approx(
            likeliest.values.tolist(), abs=1e-5
        )
        assert row["error"] == ""


def test_files_patterns_and_a_list(checkpoint, pictures, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{pictures / 'a.jpg'}\n{pictures / 'c.webp'}\n"))
    args = ["--ckpt_path", checkpoint, "--images", pictures / "b.png", pictures / "**/*.bmp", "-"]
    status, out, _ = run(capsys, *args)
    assert (status, [Path(row["file"]).name for row in table(out)]) == (0, ["b.png", "d.bmp", "a.jpg", "c.webp"])


def test_json_lines_and_words(checkpoint, pictures, capsys):
    args = ["--ckpt_path", checkpoint, "--images", pictures / "a.jpg", "--format"]
    _, out, _ = run(capsys, *args, "jsonl")
    (row,) = (json.loads(line) for line in out.splitlines())
    assert (row["file"], row["error"], len(row["classes"])) == (str(pictures / "a.jpg"), None, 3)
    _, out, _ = run(capsys, *args, "table")
    name, probability = row["classes"][0]
    assert out.startswith(f"{pictures / 'a.jpg'}  {name} {probability:.1%}, ")


def test_a_file_of_results_is_whole(checkpoint, pictures, capsys, tmp_path):
    output = tmp_path / "out.csv"
    args = ["--ckpt_path", checkpoint, "--images", pictures, "--output", output]
    status, out, err = run(capsys, *args)
    assert (status, out, f"predictions: {output}" in err, len(table(output.read_text()))) == (0, "", True, 5)
    assert not list(tmp_path.glob(".*partial"))
    status, _, err = run(capsys, *args[:-1], tmp_path / "absent/out.csv")
    assert (status, err.splitlines()[-1].endswith("No such file or directory")) == (2, True)


def header_of(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels, and has none."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""))
    framed = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def picture(form: str, mode: str = "RGB", **options) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(COLOURS).convert(mode)
    image.save(file, form, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif)


def deep() -> bytes:
    file = io.BytesIO()
    Image.fromarray((COLOURS[..., 0].astype(np.uint16) << 8) + 7).save(file, "PNG")
    return file.getvalue()


def animated() -> bytes:
    file, frames = io.BytesIO(), [Image.fromarray(np.roll(COLOURS, shift, 0)) for shift in (0, 9)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def sized(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


READ = {
    "16 bits.png": deep(),
    "CMYK.jpg": picture("JPEG", "CMYK"),
    "animated.gif": animated(),
    "turned.jpg": turned(),
    "1x1.png": sized(1, 1),
    "30000x1.png": sized(30000, 1),
    "transparent.png": picture("PNG", "RGBA"),
    "palette.png": picture("PNG", "P"),
    "a JPEG called.png": picture("JPEG"),
    "line\nbreak, \"comma\".png": picture("PNG"),
    os.fsdecode(b"no text \xff.png"): picture("PNG"),
}  # fmt: skip
NOT_READ = {
    "bomb.png": (header_of(60000, 60000), "decompression bomb"),
    "large bomb.png": (header_of(9000, 9000), "9000x9000 pixels are more than"),
    "truncated.jpg": (picture("JPEG")[:900], "truncated"),
    "empty.png": (b"", "cannot identify"),
    "text.png": (b"image,label\n", "cannot identify"),
    "only a header.png": (header_of(32, 32), ""),
}


@pytest.mark.fault
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_pictures_that_wish_ill(checkpoint, tmp_path, capsys, form):
    folder = tmp_path / "ill"
    folder.mkdir()
    for name, content in {**READ, **{name: content for name, (content, _) in NOT_READ.items()}}.items():
        (folder / name).write_bytes(content)
    (folder / "broken link.png").symlink_to("absent")
    (folder / "itself.png").symlink_to("itself.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    reasons = {name: words for name, (_, words) in NOT_READ.items()}
    reasons |= {"broken link.png": "no file", "itself.png": "no file", "pipe.png": "no file"}
    output = tmp_path / "out"
    named = [folder, folder / "absent.png", folder / "folder.png" / "x.png"]
    args = ["--ckpt_path", checkpoint, "--images", *named, "--format", form, "--output", output]
    status, _, err = run(capsys, *args)
    assert (status, err.splitlines()[-1]) == (1, f"{len(reasons) + 2} could not be read: column `error` says why")
    text = output.read_bytes().decode(errors="surrogateescape")
    rows = table(text) if form == "csv" else [json.loads(line) for line in text.splitlines()]
    found = {Path(row["file"]).name: row["error"] for row in rows}
    assert {name for name, error in found.items() if not error} == set(READ)
    for name, words in reasons.items():
        assert words in found[name]
        assert "\n" not in found[name]
    assert (found["absent.png"], found["x.png"]) == ("no such file", "no such file")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--images", "x"], "predict: the following arguments are required: --ckpt_path"),
        (["--ckpt_path", "absent.ckpt", "--images", "x"], "--ckpt_path absent.ckpt: no such file"),
        (["--ckpt_path", "x", "--images", "*.png"], "--images *.png: there is no picture"),
        (["--ckpt_path", "x", "--images", "x", "--top", "0"], "--batch_size and --top must be at least 1, got 128, 0"),
        (["--ckpt_path", "x", "--images", "x", "--tops", "1"], "predict: unrecognized arguments: --tops 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(capsys, args, message):
    assert run(capsys, *args) == (2, "", f"error: {message}\n")


def test_bad_checkpoint_and_device(checkpoint, pictures, capsys, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"x")
    assert run(capsys, "--ckpt_path", tmp_path / "x.ckpt", "--images", pictures)[0] == 2
    status, _, err = run(capsys, "--ckpt_path", checkpoint, "--images", pictures, "--device", "nonsense")
    assert (status, err.startswith("error: --device nonsense: ")) == (2, True)


def test_a_closed_pipe_is_no_error(checkpoint, pictures):
    command = [sys.executable, "-m", "lightning_cifar", "predict", "--ckpt_path", checkpoint, "--images", pictures]
    done = subprocess.run(f"{' '.join(map(str, command))} | head -1", shell=True, capture_output=True, text=True)
    assert (done.stdout.splitlines(), "Traceback" in done.stderr) == (
        ["file,class,probability,class2,probability2,class3,probability3,error"],
        False,
    )
