"""Decoded pixels of image files, compared with those of Pillow."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from lightning_cifar import InputError
from lightning_cifar.sources import decoding
from lightning_cifar.sources.folder import load_folder
from lightning_cifar.sources.images import read_image, to_pixels
from tests.sources.pixels import make_noise, read_with_pillow


def repeat_channels(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


@pytest.fixture
def read(image_folder: Path) -> Callable[..., np.ndarray]:
    """Save an image as the first of ``test/cat`` and return it as `load_folder` reads it, (32, 32, 3)."""

    def save_and_load(image: Image.Image, name: str, **options: object) -> np.ndarray:
        image.save(image_folder / "test" / "cat" / name, **options)
        return load_folder(image_folder).test.images[0].permute(1, 2, 0).numpy()

    return save_and_load


@pytest.mark.parametrize(("name", "options"), [("0.png", {}), ("0.bmp", {}), ("0.webp", {"lossless": True})])
def test_lossless_formats_keep_every_pixel(read, name, options):
    assert np.array_equal(read(Image.fromarray(make_noise(32, 32)), name, **options), make_noise(32, 32))


@pytest.mark.parametrize("name", ["0.jpg", "0.webp", "0.gif", "0.TIFF"])
def test_other_formats_equal_pillows_decoding(read, image_folder, name):
    found = read(Image.fromarray(make_noise(32, 32)), name)
    assert np.array_equal(found, read_with_pillow(image_folder / "test" / "cat" / name, "RGB"))


def test_format_is_recognised_by_content_not_by_name(read):
    assert np.array_equal(read(Image.fromarray(make_noise(32, 32)), "0.jpg", format="png"), make_noise(32, 32))


def test_greyscale_is_repeated_in_three_channels(read):
    grey = make_noise(32, 32, 1)
    assert np.array_equal(read(Image.fromarray(grey), "0.png"), repeat_channels(grey))


def test_black_and_white_is_0_and_255(read):
    bits = make_noise(32, 32, 1) > 127
    assert np.array_equal(read(Image.fromarray(bits), "0.png"), repeat_channels(bits * np.uint8(255)))


@pytest.mark.parametrize("name", ["0.png", "0.tiff", "0.pgm"])
def test_16_bit_greyscale_keeps_its_upper_8_bits(read, name):
    grey = (np.arange(32 * 32) * 64 + 63).astype(np.uint16).reshape(32, 32)  # 63 ... 65535
    assert np.array_equal(read(Image.fromarray(grey), name), repeat_channels((grey >> 8).astype(np.uint8)))


def make_palette_image() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Return a palette image, its indices and its colours."""
    indices, colours = make_noise(32, 32, 1) % 16, make_noise(16, 3, 1, seed=1)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    return image, indices, colours


@pytest.mark.parametrize("name", ["0.png", "0.gif"])
def test_palette_colours_are_exact(read, name):
    image, indices, colours = make_palette_image()
    assert np.array_equal(read(image, name), colours[indices])


@pytest.mark.parametrize("name", ["0.png", "0.gif"])
def test_palette_with_transparency_is_composited_over_white(read, name):
    image, indices, colours = make_palette_image()
    colours[5] = 255
    assert np.array_equal(read(image, name, transparency=5), colours[indices])


@pytest.mark.parametrize("name", ["0.png", "0.webp"])
def test_alpha_is_composited_over_white(read, name):
    colours, alpha = make_noise(32, 32), make_noise(32, 32, 1, seed=1)
    alpha[:8], alpha[8:16] = 0, 255
    found = read(Image.fromarray(np.dstack([colours, alpha])), name, lossless=True, exact=True)
    assert (found[:8] == 255).all()  # the colour hidden under alpha 0 is gone
    assert np.array_equal(found[8:16], colours[8:16])
    opacity = alpha[..., None] / 255
    assert np.abs(found - (colours * opacity + 255 * (1 - opacity))).max() <= 1


def test_greyscale_with_alpha_is_composited_over_white(read):
    grey, alpha = make_noise(32, 32, 1), np.full((32, 32), 255, np.uint8)
    alpha[:8] = 0
    found = read(Image.fromarray(np.dstack([grey, alpha])), "0.png")
    grey[:8] = 255
    assert np.array_equal(found, repeat_channels(grey))


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 255, 0, 0), (0, 0, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0,) * 4, (255,) * 3),
    ],
)
@pytest.mark.parametrize("name", ["0.jpg", "0.tiff"])
def test_cmyk_is_converted_to_rgb(read, name, ink, colour):
    found = read(Image.new("CMYK", (32, 32), ink), name)
    assert np.abs(found.astype(int) - colour).max() <= 2  # JPEG is lossy


@pytest.mark.parametrize(
    ("orientation", "transform"),
    [
        (1, lambda stored: stored),
        (2, np.fliplr),
        (3, lambda stored: np.rot90(stored, 2)),
        (4, np.flipud),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("name", ["0.png", "0.jpg"])
def test_exif_orientation_is_applied(read, image_folder, name, orientation, transform):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(Image.fromarray(make_noise(32, 32)), name, exif=exif)
    assert np.array_equal(found, transform(read_with_pillow(image_folder / "test" / "cat" / name)))


@pytest.mark.parametrize("name", ["0.gif", "0.webp", "0.png"])
def test_an_animation_is_read_as_its_first_frame(read, name):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    found = read(frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
    assert (found == (255, 0, 0)).all()


@pytest.mark.parametrize("width_height", [(100, 60), (60, 100), (45, 32), (33, 64), (64, 64), (20, 9), (1, 1)], ids=str)
def test_other_sizes_are_the_centred_square_resized_with_antialiasing(read, width_height):
    width, height = width_height
    side = min(width_height)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(make_noise(height, width).reshape(height, width, 3))
    square = image.resize((32, 32), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    assert np.array_equal(read(image, "0.png"), np.asarray(square))


def test_pillows_warnings_are_not_shown(read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)  # Pillow warns up to twice the limit
    assert (read(Image.new("RGB", (64, 64), "red"), "0.png") == (255, 0, 0)).all()


def test_reading_in_threads_does_not_change_the_warning_filters(image_folder, monkeypatch):
    """The first of two readers ends while the second reads; saved filters would be restored in the wrong order."""
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    transpose = ImageOps.exif_transpose

    def take_turns(image, **options):
        if not first_in.is_set():
            first_in.set()
            second_in.wait(5)
        else:
            second_in.set()
            first_out.wait(5)
        return transpose(image, **options)

    monkeypatch.setattr(ImageOps, "exif_transpose", take_turns)
    before, path = list(warnings.filters), str(image_folder / "train" / "cat" / "image-00.bmp")
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(decoding.decode, path)
            assert first_in.wait(5)
            second = pool.submit(decoding.decode, path)
            first.result()
            first_out.set()
            second.result()
        assert warnings.filters == before
    finally:
        warnings.filters[:] = before


def test_a_large_jpeg_decoded_at_reduced_size_has_nearly_the_same_pixels(tmp_path):
    ramp = np.linspace(0, 255, 1200).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), -1)
    file = tmp_path / "large.jpg"
    Image.fromarray(pixels).save(file, quality=95)
    with Image.open(file) as opened:
        whole = to_pixels(opened)
    assert np.abs(read_image(str(file)).astype(int) - whole).max() <= 2


def test_an_error_names_up_to_50_damaged_files():
    decoding.refuse_damaged([])
    with pytest.raises(InputError) as caught:
        decoding.refuse_damaged([f"{number}.png: damaged" for number in range(52)])
    *names, rest = str(caught.value).split("; ")
    assert (names[-1], rest) == ("49.png: damaged", "and 2 more")
