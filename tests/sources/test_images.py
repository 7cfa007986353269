"""Images whose pixels or sizes are not what their header says, in image folders and in `predict --images`."""

import io
import struct
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from lightning_cifar import main
from lightning_cifar.sources import images
from lightning_cifar.sources.folder import load_folder
from lightning_cifar.sources.images import read_image


def make_ramp() -> np.ndarray:
    return np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)


def save(pixels: np.ndarray, name: str) -> str:
    Image.fromarray(pixels).save(name)
    return name


@pytest.mark.parametrize("name", ["x.tiff", "x.pfm"])
def test_floats_in_0_to_1_are_scaled(image_folder, name):
    file = image_folder / "test" / "cat" / f"0{name}"
    save(make_ramp(), str(file))
    pixels = load_folder(image_folder).test.images[0]
    assert pixels[0].flatten().tolist() == (255 * make_ramp()).round().flatten().tolist()


def test_pixels_of_unknown_range_are_refused(image_folder, trained, tiny, tmp_path, capsys):
    ramp = make_ramp()
    for name, pixels in (
        ("a.tiff", ramp * 255),
        ("b.tiff", ramp - 0.5),
        ("c.tiff", np.full((32, 32), np.nan, np.float32)),
        ("d.tiff", (ramp * 255).astype(np.int32)),
    ):
        save(pixels, str(tmp_path / name))
    predict = ["predict", "--ckpt_path", str(trained), "--images", str(tmp_path / "*.tiff"), "--format", "table"]
    assert main(predict) == 1
    lines = capsys.readouterr().out.splitlines()
    for line, reason in zip(lines, ("got 0 to 255", "got -0.5 to 0.5", "got nan to nan", "32-bit"), strict=True):
        assert reason in line
    file = (tmp_path / "a.tiff").rename(image_folder / "train/cat/x.tiff")
    assert main(["fit", *tiny, "--data.dataset", "folder", "--data.root", str(image_folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert "must be in [0, 1], got 0 to 255" in line


def make_tiff(content: bytes, bits: int, white_is_0: bool, sample_format: int = 1) -> bytes:
    """Return a greyscale TIFF of 32x32 pixels, which Pillow cannot write."""
    values = {256: 32, 257: 32, 258: bits, 259: 1, 262: int(not white_is_0), 273: 134, 277: 1, 278: 32}
    values |= {279: len(content), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, one) for tag, one in values.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(values)) + entries + bytes(4) + content


def pack_12_bits(values: np.ndarray) -> bytes:
    first, second = values.astype(int).reshape(-1, 2).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def test_all_grey_tiffs_become_the_same_pixels(tmp_path):
    """12 bits, and 0 for white with 16 bits or floats, none of which Pillow scales or inverts."""
    grey = np.arange(1024).reshape(32, 32) % 256
    expected = np.repeat(grey[..., None], 3, 2)
    contents = {
        "12 bits": make_tiff(pack_12_bits(grey << 4), 12, white_is_0=False),
        "8 bits, white is 0": make_tiff((255 - grey).astype(np.uint8).tobytes(), 8, white_is_0=True),
        "16 bits, white is 0": make_tiff((65535 - (grey << 8)).astype("<u2").tobytes(), 16, white_is_0=True),
        "floats, white is 0": make_tiff((1 - grey / 255).astype("<f4").tobytes(), 32, white_is_0=True, sample_format=3),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_image(str(tmp_path / name)), expected), name


UNREADABLE = [
    (b"", "an empty file"),
    (b"version https://git-lfs.github.com/spec/v1", "not an image"),
    (b"%PDF-1.7", "a PDF: convert it to JPEG or PNG"),
    (b"<svg/>", "SVG or a web page: convert it to JPEG or PNG"),
    (b"\0\0\1\0\1\0  \0\0\1\0", "an icon: convert it to JPEG or PNG"),
    (b"\xff\n\xfa\x1f", "JPEG XL: convert it to JPEG or PNG"),
    (b"\0\0\0\x0cJXL \r\n", "JPEG XL: convert it to JPEG or PNG"),
    (b"8BPS\0\1", "a Photoshop file: convert it to JPEG or PNG"),
    (b"\0\0\0 ftypisom", "a video: convert it to JPEG or PNG"),
    (
        b"II*\0\x10\0\0\0CR\x02\0",
        "a raw photograph, or a TIFF of a kind that is not read: convert it to JPEG or PNG",
    ),
]


@pytest.mark.slow
def test_what_is_no_readable_image_is_named(image_folder, trained, tiny, tmp_path, capsys):
    files = [tmp_path / f"IMG {number}.jpg" for number in range(len(UNREADABLE))]
    for file, (content, _) in zip(files, UNREADABLE, strict=True):
        file.write_bytes(content)
    assert main(["predict", "--ckpt_path", str(trained), "--images", *map(str, files), "--format", "table"]) == 1
    lines = [f"{file}  {reason}" for file, (_, reason) in zip(files, UNREADABLE, strict=True)]
    assert capsys.readouterr().out.splitlines() == lines
    file = files[-1].rename(image_folder / "train/cat" / files[-1].name)
    assert main(["fit", *tiny, "--data.dataset", "folder", "--data.root", str(image_folder)]) == 2
    reason = UNREADABLE[-1][1]
    assert capsys.readouterr().err == f"error: {file} cannot be read ({reason}): replace or remove it\n"


def make_icon() -> bytes:
    """Return an ICO of 16x16 by its header, with a PNG of 9000x9000 inside."""
    inside = io.BytesIO()
    Image.new("1", (9000, 9000)).save(inside, "PNG")
    content = inside.getvalue()
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


def test_formats_that_hold_other_formats_are_refused(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(make_icon())
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Image.UnidentifiedImageError):
        read_image(str(tmp_path / "x.png"))


def test_heic_is_read_with_its_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), -1))
    heif.register_heif_opener()
    image.save(tmp_path / "x.heic", quality=100)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(read_image(str(tmp_path / "x.heic")) - expected).max() < 8
    (tmp_path / "y.heic").write_bytes((tmp_path / "x.heic").read_bytes()[:100])
    with pytest.raises(Exception, match="HEIC that is damaged"):
        read_image(str(tmp_path / "y.heic"))


def test_heic_without_its_extra_names_it(image_folder, tiny, capsys, monkeypatch):
    monkeypatch.setattr("lightning_cifar.sources.images.list_formats", lambda: ("JPEG", "PNG", "BMP"))
    file = image_folder / "train" / "cat" / "IMG_1.HEIC"
    file.write_bytes(b"\0\0\0\x18ftypheic")
    assert main(["fit", *tiny, "--data.dataset", "folder", "--data.root", str(image_folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert "HEIC needs the extra: pip install 'lightning-cifar[heic]', or convert it to JPEG" in line
    upload = io.BytesIO(file.read_bytes())  # as `serve` reads it, without a name
    with pytest.raises(Image.UnidentifiedImageError, match="HEIC needs the extra"):
        read_image(upload)


def make_exif(*entries: tuple[int, int, int]) -> bytes:
    """Return EXIF with a tag, a type and a signed value for each entry."""
    packed = b"".join(struct.pack("<HHIi", tag, kind, 1, value) for tag, kind, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (b"Exif\0\0no TIFF at all", False),
        (b"Exif\0\0II*\0", False),
        (make_exif((0x0112, 3, 6), (0x8769, 9, -1)), True),  # the orientation, and a part that lies before the start
    ],
    ids=["other bytes", "truncated", "a bad pointer"],
)
def test_odd_exif_keeps_no_image_from_being_read(image_folder, exif, turned):
    file = image_folder / "test" / "cat" / "0.jpg"
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, exif=exif, dpi=(72, 72))
    with Image.open(file) as image:
        expected = np.rot90(np.asarray(image), -1 if turned else 0)
    assert np.array_equal(load_folder(image_folder).test.images[0].permute(1, 2, 0), expected)


@pytest.mark.parametrize("progressive", [True, False])
def test_large_progressive_jpegs_are_decoded_one_at_a_time(tmp_path, monkeypatch, progressive):
    """The decoder keeps a progressive one in memory as a whole, at whatever scale it decodes it."""
    locked = []

    @contextmanager
    def lock():
        locked.append(True)
        yield

    Image.new("RGB", (512, 512)).save(tmp_path / "x.jpg", progressive=progressive)
    monkeypatch.setattr(images, "LARGE", 512 * 512 - 1)
    monkeypatch.setattr(images, "LARGE_LOCK", lock())
    read_image(str(tmp_path / "x.jpg"))
    assert bool(locked) == progressive
