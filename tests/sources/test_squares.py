"""Images of any shape become squares as by Pillow."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from lightning_cifar.data.square import Square
from lightning_cifar.sources.images import read_image, to_pixels
from tests.sources.pixels import make_noise


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 65), (33, 32), (7, 5), (224, 224), (64, 64)], ids=str)
@pytest.mark.parametrize("side", [32, 64, 224])
def test_images_are_cropped_or_letterboxed_as_pillow_does(size, side):
    image = Image.fromarray(make_noise(size[1], size[0]))
    cropped = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    padded = ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color=(128, 128, 128))
    assert np.array_equal(to_pixels(image.copy(), Square(side)), np.asarray(cropped))
    assert np.array_equal(to_pixels(image.copy(), Square(side, "letterbox")), np.asarray(padded))
    assert (size[0] == size[1]) == np.array_equal(np.asarray(cropped), np.asarray(padded))


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P", "CMYK"])
def test_bars_are_grey_in_every_mode(mode):
    image = Image.new("L", (100, 20), 255)
    image = Image.fromarray(np.full((20, 100), 65535, np.uint16)) if mode == "I;16" else image.convert(mode)
    pixels = to_pixels(image, Square(50, "letterbox"))
    assert (pixels[:20] == 128).all()
    assert (pixels[20:30] == 255).all()
    assert (pixels[30:] == 128).all()


@pytest.mark.parametrize("size", [(1000, 1), (1, 1000)])
def test_a_line_keeps_a_pixel_of_width(size):
    pixels = to_pixels(Image.new("RGB", size), Square(32, "letterbox"))
    assert (pixels == 0).all(2).sum() == 32


@pytest.mark.slow
def test_a_large_jpeg_is_decoded_at_a_size_that_suffices():
    ramp = np.linspace(0, 255, 4000).astype(np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), -1)).save("large.jpg")
    with Image.open("large.jpg") as opened:
        whole = to_pixels(opened, Square(224))
    assert np.abs(read_image("large.jpg", Square(224)).astype(int) - whole).max() <= 3
