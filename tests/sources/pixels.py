"""Random pixels, and pixels as Pillow reads them."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, channels), dtype=np.uint8).squeeze()


def read_with_pillow(file: Path, mode: str | None = None) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert(mode))
