"""`predict --images`: a row for each file, in every format, readable or not."""

import csv
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar import ImageClassifier, main
from lightning_cifar.data.square import SQUARE
from lightning_cifar.evaluate import prediction
from lightning_cifar.evaluate.listing import find_images_below
from lightning_cifar.evaluate.prediction import AHEAD, read_ahead
from lightning_cifar.sources.images import read_image
from tests.children import redirect
from tests.command_line import run

COLOURS = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)


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


def predict(capsys, *args: object) -> tuple[int, str, str]:
    return run(capsys, "predict", *args)


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.slow
def test_a_row_for_each_picture_as_the_model_says(checkpoint, pictures, capsys):
    status, out, _ = predict(capsys, "--ckpt_path", checkpoint, "--images", pictures, "--top", "2", "--batch_size", "2")
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
    monkeypatch.setattr(
        sys, "stdin", io.StringIO(f"\ufeff{pictures / 'a.jpg'}\n{pictures / 'c.webp'}\n")
    )  # as Windows begins a file
    args = ["--ckpt_path", checkpoint, "--images", pictures / "b.png", pictures / "**/*.bmp", "-"]
    status, out, _ = predict(capsys, *args)
    assert (status, [Path(row["file"]).name for row in table(out)]) == (0, ["b.png", "d.bmp", "a.jpg", "c.webp"])


@pytest.mark.parametrize("suffix", [".mpo", ".JPG", ".avif", ".qoi"])
def test_below_a_folder_pictures_go_by_their_suffix(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    (tmp_path / "a.eps").touch()
    assert [Path(name).suffix for name in find_images_below(str(tmp_path))] == [suffix]


def test_json_lines_and_table(checkpoint, pictures, capsys):
    args = ["--ckpt_path", checkpoint, "--images", pictures / "a.jpg", "--format"]
    _, out, _ = predict(capsys, *args, "jsonl")
    (row,) = (json.loads(line) for line in out.splitlines())
    assert (row["file"], row["error"], len(row["classes"])) == (str(pictures / "a.jpg"), None, 3)
    _, out, _ = predict(capsys, *args, "table")
    name, probability = row["classes"][0]
    assert out.startswith(f"{pictures / 'a.jpg'}  {name} {probability:.1%}, ")


def test_the_output_file_is_written_atomically(checkpoint, pictures, capsys, tmp_path):
    output = tmp_path / "out.csv"
    args = ["--ckpt_path", checkpoint, "--images", pictures, "--output", output]
    status, out, err = predict(capsys, *args)
    assert (status, out, f"predictions: {output}" in err, len(table(output.read_text()))) == (0, "", True, 5)
    assert not list(tmp_path.glob(".*partial"))
    status, _, err = predict(capsys, *args[:-1], tmp_path / "absent/out.csv")
    assert (status, err.splitlines()[-1].endswith("absent is not a directory: make it first")) == (2, True)


@pytest.mark.slow
def test_undecodable_names_are_kept(checkpoint, tmp_path, start):
    """From a list on standard input, to standard output."""
    name = os.fsencode(tmp_path / "pictures ") + b"\xff.png"
    Path(os.fsdecode(name)).write_bytes(sized(2, 2))
    (tmp_path / "list").write_bytes(name + b"\n\n")
    listed = partial(redirect, 0, tmp_path / "list")
    child = start("predict", "--ckpt_path", checkpoint, "--images", "-", prepare=listed)
    assert child.wait() == 0
    _, row = child.output.read_bytes().splitlines()  # no bar where it is no terminal
    assert row.startswith(name + b",")


def test_a_list_is_read_in_batches():
    """Of ten million names it reads a few batches' while the first is classified."""
    asked = 0

    def names():
        nonlocal asked
        while True:
            asked += 1
            yield "absent.png"

    with ThreadPoolExecutor(2) as pool:
        batches = read_ahead(pool, names(), 8, SQUARE)
        assert next(batches) == [("absent.png", "no such file")] * 8
        next(batches)
        assert asked == 8 * (AHEAD + 2)


def test_a_progress_bar_on_a_terminal(checkpoint, pictures, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, out, err = predict(capsys, "--ckpt_path", checkpoint, "--images", pictures)
    assert len(table(out)) == 5
    assert re.search(r"predicting: 5 images \[00:\d\d, [\d.]+ ?images/s\]", err)


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_files(checkpoint, tmp_path):
    """Of 20,000 links it takes no more than 10 MB above 2,000, for their names; the pixels of all would be 60 MB."""
    (tmp_path / "one.png").write_bytes(sized(32, 32))
    peaks = []
    for count in (2_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.png").symlink_to(tmp_path / "one.png")
        code = (
            "import resource, sys, lightning_cifar; status = lightning_cifar.main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(status)"
        )
        args = ["predict", "--ckpt_path", checkpoint, "--images", folder]
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) == count + 1
        peaks.append(int(done.stderr))
    assert peaks[1] - peaks[0] < 10_000


@pytest.mark.slow
def test_each_image_that_can_be_read_is_explained_in_a_figure(checkpoint, pictures, capsys, tmp_path):
    folder = tmp_path / "why/these"
    shutil.copy(pictures / "a.jpg", pictures / "a b\n√.jpg")
    (pictures / "b.png").write_bytes(b"")
    args = ["--ckpt_path", checkpoint, "--images", pictures, "--batch_size", "2", "--explain", folder]
    status, out, err = predict(capsys, *args)
    assert (status, len(table(out)), f"explanations: {folder}" in err) == (1, 6, True)
    assert sorted(file.name for file in folder.iterdir()) == [
        "000001-a_b__.png", "000002-a.png", "000004-c.png", "000005-E.png", "000006-d.png"
    ]  # fmt: skip
    with Image.open(folder / "000002-a.png") as drawn:
        assert drawn.width > 2 * drawn.height
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert predict(capsys, *args)[0::2] == (
        2,
        f"error: --explain {folder} is not empty: name a new or empty directory\n",
    )
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert predict(capsys, *args[:-1], pictures / "a.jpg" / "x")[2].endswith(
        "x: Not a directory; name another directory\n"
    )


@pytest.mark.slow
def test_explanations_that_were_interrupted_are_repeated_in_their_directory(
    checkpoint, pictures, trained, capsys, tmp_path, monkeypatch
):
    """But not in one that another command has used since."""
    args = ["--ckpt_path", checkpoint, "--images", pictures, "--batch_size", "1", "--explain", tmp_path / "why"]
    with monkeypatch.context() as patched:
        drawn, encode = [], prediction.encode_png

        def interrupt(figure):
            drawn.append(figure)
            if len(drawn) == 2:
                raise KeyboardInterrupt
            return encode(figure)

        patched.setattr(prediction, "encode_png", interrupt)
        assert predict(capsys, *args)[0] == 130
    assert len([*(tmp_path / "why").glob("*.png")]) == 1
    status, out, _ = predict(capsys, *args)
    assert (status, len(table(out))) == (0, len([*(tmp_path / "why").iterdir()]))
    assert predict(capsys, *args)[2].endswith("why is not empty: name a new or empty directory\n")
    for file in (tmp_path / "why").iterdir():
        file.unlink()
    (tmp_path / "why/.unfinished-explain").touch()  # interrupted before the first figure
    assert main(["report", str(trained), "--output", str(tmp_path / "why")]) == 0
    before = {file.name for file in (tmp_path / "why").iterdir()}
    assert predict(capsys, *args)[2].endswith("why is not empty: name a new or empty directory\n")
    assert {file.name for file in (tmp_path / "why").iterdir()} == before


@pytest.mark.slow
def test_faster_ways_say_nearly_the_same(capsys, checkpoint, drawn_folder):
    folders = drawn_folder / "automobile", drawn_folder / "bird"
    args = ["--ckpt_path", "pretrained", "--images", *folders, "--top", "1", "--tta"]
    ways = (["none"], ["none", "--precision", "bf16-mixed"], ["translate"])
    plain, *others = (table(predict(capsys, *args, *options)[1]) for options in ways)
    for rows in others:
        assert [row["class"] for row in rows] == [row["class"] for row in plain]
        assert [row["class"] for row in rows] == ["airplane", "airplane", "airplane", "bird"]
        shares = [[float(row["probability"]) for row in some] for some in (rows, plain)]
        assert shares[0] != shares[1]
        assert shares[0] == pytest.approx(shares[1], abs=0.3)
    assert predict(capsys, "--ckpt_path", checkpoint, "--images", drawn_folder / "horse", "--precision", "auto")[0] == 0


def test_precision_is_not_measured_on_a_known_processor(checkpoint, drawn_folder, capsys, monkeypatch):
    monkeypatch.setattr("lightning_cifar.run.process.hardware.find_processor_precision", lambda: "32-true")
    monkeypatch.delattr("lightning_cifar.run.process.hardware.IMAGES")  # measuring fails
    args = ["--ckpt_path", checkpoint, "--images", drawn_folder / "horse", "--precision"]
    assert predict(capsys, *args, "auto") == predict(capsys, *args, "32-true")


def test_an_interrupted_command_leaves_no_file(checkpoint, pictures, capsys, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_cifar.evaluate.prediction.rank_classes", stopped)
    args = ["--ckpt_path", checkpoint, "--images", pictures, "--output", tmp_path / "out.csv"]
    status, out, err = predict(capsys, *args)
    assert (status, out, err.splitlines()[-1]) == (130, "", "interrupted: run the command again")
    assert not [*tmp_path.glob("*out.csv*"), *tmp_path.glob(".out.csv*")]


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
    "bomb.png": (header_of(60000, 60000), "more than 67,108,864 pixels: make it smaller"),
    "large bomb.png": (header_of(9000, 9000), "9000x9000 pixels are more than"),
    "truncated.jpg": (picture("JPEG")[:900], "truncated"),
    "empty.png": (b"", "an empty file"),
    "text.png": (b"image,label\n", "not an image"),
    "a program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", "PostScript"),
    "only a header.png": (header_of(32, 32), ""),
}


@pytest.mark.fault
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_files_that_are_no_images_get_a_row_with_the_reason(checkpoint, tmp_path, capsys, form):
    folder = tmp_path / "ill"
    folder.mkdir()
    for name, content in {**READ, **{name: content for name, (content, _) in NOT_READ.items()}}.items():
        (folder / name).write_bytes(content)
    (folder / "broken link.png").symlink_to("absent")
    (folder / "itself.png").symlink_to("itself.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    reasons = {name: words for name, (_, words) in NOT_READ.items()}
    reasons |= {
        "broken link.png": "not a regular file",
        "itself.png": "not a regular file",
        "pipe.png": "not a regular file",
    }
    output = tmp_path / "out"
    named = [folder, folder / "absent.png", folder / "folder.png" / "x.png"]
    args = ["--ckpt_path", checkpoint, "--images", *named, "--format", form, "--output", output]
    status, _, err = predict(capsys, *args)
    assert (status, err.splitlines()[-1]) == (1, f"{len(reasons) + 2} images could not be read: see the column `error`")
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
        (["--images", "*.png"], "--images *.png: no image found"),
        (["--ckpt_path", "absent.ckpt", "--images", "x"], "--ckpt_path absent.ckpt: no such file"),
        (["--ckpt_path", "x", "--images", "*.png"], "--images *.png: no image found"),
        (["--ckpt_path", "x", "--images", "x", "--top", "0"], "--top must be at least 1, got 0"),
        (["--ckpt_path", "x", "--images", "x", "--tops", "1"],
         "predict: unrecognized arguments: --tops 1; did you mean --top?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(capsys, args, message):
    assert predict(capsys, *args) == (2, "", f"error: {message}\n")


def test_bad_checkpoint_and_device(checkpoint, pictures, capsys, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"x")
    assert predict(capsys, "--ckpt_path", tmp_path / "x.ckpt", "--images", pictures)[0] == 2
    status, _, err = predict(capsys, "--ckpt_path", checkpoint, "--images", pictures, "--device", "nonsense")
    assert (status, err.startswith("error: --device nonsense: ")) == (2, True)


@pytest.mark.parametrize("name", [".", "/dev/null"])
def test_only_files_are_written_over(checkpoint, pictures, capsys, name):
    status, _, err = predict(capsys, "--ckpt_path", checkpoint, "--images", pictures, "--output", name)
    assert (status, err) == (2, f"error: --output {name} is not a file: name a new file, or one to overwrite\n")


def test_no_file_of_another_kind_is_written_over(checkpoint, pictures, capsys):
    """Such as the model itself."""
    model = shutil.copy(checkpoint, "model.ckpt")
    Path("config.yaml").write_text("a: 1")
    for name in (model, "config.yaml"):
        before = Path(name).read_bytes()
        status, _, err = predict(capsys, "--ckpt_path", model, "--images", pictures, "--output", name)
        known = "only one that ends with .csv or .jsonl or .txt is overwritten"
        assert (status, err) == (2, f"error: --output {name} exists: name a new file; {known}\n")
        assert Path(name).read_bytes() == before


def test_the_output_is_named_as_users_name_it(checkpoint, pictures, capsys):
    """``-`` is standard output; the suffix ``.jsonl`` names its format; a link stays a link."""
    args = ["--ckpt_path", checkpoint, "--images", pictures / "a.jpg", "--output"]
    _, out, _ = predict(capsys, *args, "-")
    assert (len(table(out)), Path("-").exists()) == (1, False)
    Path("link.jsonl").symlink_to("rows.jsonl")
    for _ in range(2):
        assert predict(capsys, *args, "link.jsonl")[0] == 0
    assert json.loads(Path("rows.jsonl").read_text())["error"] is None
    assert Path("link.jsonl").is_symlink()


def test_no_more_classes_than_there_are(checkpoint, pictures, capsys):
    _, out, err = predict(capsys, "--ckpt_path", checkpoint, "--images", pictures, "--top", "1000000000")
    assert out.splitlines()[0].endswith(",class10,probability10,error")
    assert "note: --top 1000000000: the model has 10 classes\n" in err


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(checkpoint, pictures, tmp_path, start):
    os.mkfifo(tmp_path / "pipe")
    to_pipe = partial(redirect, 1, tmp_path / "pipe")
    child = start("predict", "--ckpt_path", checkpoint, "--images", pictures, prepare=to_pipe)
    (tmp_path / "pipe").open().close()  # once the child has opened it
    assert (child.wait(), child.output.read_text()) == (141, "")


@pytest.mark.slow
def test_files_that_are_left_out_are_counted(capsys, tmp_path, drawn_folder):
    folder = shutil.copytree(drawn_folder / "cat", tmp_path / "images")
    for name in ("IMG_1.HEIC", "scan", "below/notes.txt", ".hidden"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    status, out, err = predict(capsys, "--images", folder, "--format", "csv")
    words = ": 2 files that are not images (1 without suffix, 1 .txt), such as"
    assert (status, len(out.splitlines())) == (1, 4)  # the HEIC file is a row, with its error
    assert f"left out{words} {folder / 'scan'}\n" in err
    assert "1 image could not be read: see the column `error`\n" in err
    (folder / "below/notes.txt").unlink()
    assert "left out: 1 file that is not an image (1 without suffix), such as" in predict(capsys, "--images", folder)[2]
    (folder / "below/notes.txt").touch()
    (folder / "IMG_1.HEIC").unlink()
    for file in folder.glob("*.jpg"):
        file.unlink()
    message = f"error: --images {folder}: no image found{words} {folder / 'scan'}\n"
    assert predict(capsys, "--images", folder) == (2, "", message)


def test_probabilities_that_are_nan_are_errors(capsys, drawn_folder, monkeypatch):
    monkeypatch.setattr(prediction, "predict_probabilities", lambda model, images, _: torch.full((2, 10), torch.nan))
    status, out, _ = predict(capsys, "--images", drawn_folder / "cat", "--format", "csv")
    assert status == 1
    assert [row["error"] for row in table(out)] == ["the model's probabilities are NaN"] * 2


@pytest.mark.parametrize("name", ["a.jpg", "JPEG without suffix", "new.png"])
def test_no_image_is_overwritten_by_predictions(pictures, capsys, name):
    (pictures / "JPEG without suffix").write_bytes((pictures / "a.jpg").read_bytes())
    before = {file: file.read_bytes() for file in pictures.iterdir() if file.is_file()}
    status, _, err = predict(capsys, "--images", pictures / "a.jpg", "--output", pictures / name)
    reason = "is an image, or named like one: name another file, such as predictions.csv"
    assert (status, err) == (2, f"error: --output {pictures / name} {reason}\n")
    assert {file: file.read_bytes() for file in pictures.iterdir() if file.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("output", [".", "absent/out.csv"])
def test_a_refused_output_leaves_no_directory_of_figures(pictures, capsys, output):
    assert predict(capsys, "--images", pictures / "a.jpg", "--explain", "why", "--output", output)[0] == 2
    assert not Path("why").exists()


@pytest.mark.slow
def test_figures_in_a_folder_of_images_are_not_classified(checkpoint, pictures, capsys):
    for number in range(AHEAD + 2):  # the folder below is listed after the first figure was written
        shutil.copy(pictures / "a.jpg", pictures / f"{number}.jpg")
    args = ["--images", pictures, "--batch_size", "1", "--explain", pictures / "below" / "why"]
    status, out, _ = predict(capsys, "--ckpt_path", checkpoint, *args)
    assert (status, len(table(out))) == (0, 5 + AHEAD + 2)


def test_folders_that_are_linked_or_cannot_be_read_are_not_passed_over(checkpoint, pictures, capsys, monkeypatch):
    def scan(folder):
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    scandir = os.scandir
    (pictures / "below").rename("elsewhere")
    (pictures / "below").symlink_to(Path("elsewhere").resolve())
    (pictures / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", scan)
    status, out, _ = predict(capsys, "--ckpt_path", checkpoint, "--images", pictures)
    *read, locked = table(out)
    assert (status, len(read), [row["error"] for row in read]) == (1, 5, [""] * 5)
    assert (locked["file"], locked["error"][:8]) == (str(pictures / "locked"), "a folder")
