"""The formats of pictures that are read, known without torch."""

from functools import cache

from PIL import Image

# What is decoded, by a file's content; Pillow knows more, among them PostScript, for which it runs another program.
PICTURE_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"),
    "WEBP",
)


@cache
def formats() -> tuple[str, ...]:
    """Those of `PICTURE_FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(form for form in PICTURE_FORMATS if form in Image.OPEN)
