"""Captions of `batch.png` and `mistakes.png`."""

import io

import numpy as np
from PIL import Image

from lightning_cifar.run.figures.image_sheet import MARGIN, TILE, draw_sheet


def draw(*names: str) -> np.ndarray:
    sheet = draw_sheet(np.zeros((len(names), 32, 32, 3), np.uint8), [[name] for name in names])
    return np.asarray(Image.open(io.BytesIO(sheet)))


def test_a_wide_name_stays_below_its_image():
    below = draw("W" * 15, "W" * 15)[MARGIN + TILE :]
    assert (below[:, :MARGIN] == 255).all()
    assert (below[:, MARGIN + TILE : 2 * MARGIN + TILE] == 255).all()
    assert (below[:, 2 * MARGIN + TILE : 2 * (MARGIN + TILE)] < 128).any()


def test_accents_are_drawn():
    assert not np.array_equal(draw("Löwenzahn"), draw("L?wenzahn"))
