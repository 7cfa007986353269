"""Decoding of one image file into 32x32 RGB pixels, the same way for every file. Imports no torch.

- EXIF orientation is applied; only the first frame of an animation is used.
- 16-bit greyscale keeps its upper 8 bits, and floats in [0, 1] are scaled to 255; other floats and 32-bit integers,
  whose range is unknown, are refused. Transparent pixels are composited over white; greyscale, palette and CMYK
  images become RGB.
- Other sizes are cut to the centred square and resized with antialiasing (bicubic).
- A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, with no side below 128 pixels: several times as fast.
"""

import contextlib
import os
import threading
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from lightning_cifar.errors import InputError

SIZE = 32  # pixels; every source delivers SIZE x SIZE
MAX_PIXELS = 1 << 26  # per file, read from its header: 256 MB decoded, and up to twice that in conversions
LARGE = 1 << 23  # pixels; larger files are decoded one at a time, so that threads do not add up to gigabytes
LARGE_LOCK = threading.Lock()

# Recognised by content. Pillow reads more: PostScript, for which it runs another program, and icons (ICO, ICNS), which
# hold an image of another format whose size the header does not tell.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"),
    "WEBP",
)
HEIC = (".heic", ".heif")  # photographs of phones, which Pillow cannot read


@cache
def list_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def has_image_suffix(path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    return suffix in HEIC or (bool(list_formats()) and Image.EXTENSION.get(suffix) in FORMATS)


def is_image(path: str) -> bool:
    """Return whether a regular file is an image by its suffix or, if that is of no format, by its content."""
    if has_image_suffix(path):
        return True
    try:
        Image.open(path, formats=[one for one in list_formats() if one != "TGA"]).close()  # TGA has no signature
    except Exception:  # each decoder fails in its own ways
        return False
    return True


def read_image(source: str | BinaryIO) -> np.ndarray:
    """Decode a file, given by its path or opened, into RGB uint8 (32, 32, 3).

    Raises:
        Exception: the file cannot be decoded. The type depends on the decoder.
    """
    try:
        image = Image.open(source, formats=list_formats())
    except Image.UnidentifiedImageError:
        if str(source).lower().endswith(HEIC):
            raise ValueError("HEIC is not supported: convert it to JPEG") from None
        raise
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
        image.draft(None, (4 * SIZE, 4 * SIZE))
        with LARGE_LOCK if image.width * image.height > LARGE else contextlib.nullcontext():
            return to_pixels(image)


def to_pixels(image: Image.Image) -> np.ndarray:
    """Convert an open image to RGB uint8 (32, 32, 3). It is resized early, since copies of a large one cost memory."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        image = scale_floats(image)
    if image.mode == "I" and image.format == "TIFF":
        raise ValueError("32-bit or signed pixels have no known range: save it with 8 or 16 bits")
    deep = image.mode.startswith("I")  # 16 bits
    mode = "I" if deep else "RGBA" if image.has_transparency_data else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (SIZE, SIZE):
        image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)
    if deep:
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image)


def scale_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= 1):  # NaN neither
        raise ValueError(f"float pixels must be in [0, 1], got {values.min():g} to {values.max():g}")
    return Image.fromarray((255 * values).round().astype(np.uint8))


def decode(path: str) -> np.ndarray:
    """Decode a file of an image folder as `read_image` does; raise a one-line `InputError` if that fails."""
    try:
        return read_image(path)
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not an image: remove it from the class folder") from None
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}): replace or remove it") from error
