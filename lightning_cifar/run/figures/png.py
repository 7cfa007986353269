"""PNGs of figures and images, as bytes. Imports no torch."""

import base64
import io
from typing import Any

from matplotlib.figure import Figure
from PIL import Image


def render_figure(figure: Figure, dpi: int = 120, **options: Any) -> bytes:
    """Return a figure of matplotlib as a PNG; ``options`` are those of its ``savefig``."""
    png = io.BytesIO()
    figure.savefig(png, dpi=dpi, format="png", **options)
    return png.getvalue()


def encode_png(image: Image.Image, **options: Any) -> bytes:
    """Return an image of Pillow as a PNG; ``options`` are those of its ``save``."""
    png = io.BytesIO()
    image.save(png, "PNG", **options)
    return png.getvalue()


def format_data_uri(png: bytes) -> str:
    """Return a PNG as a ``data:`` URI, for pages that load nothing."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
