"""``batch.png``: what the network gets at its first step."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar import CIFAR10DataModule, main
from lightning_cifar.run.figures.batch_figure import draw_batch
from lightning_cifar.run.figures.image_sheet import cut_sheet

STEP = ["--data.batch_size", "64", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]


def read_tiles(png, count):
    """Return the pixels of the first tiles, 32x32."""
    tiles = cut_sheet(Image.open(io.BytesIO(png)), 40, lines=1)
    return [np.asarray(tile)[::3, ::3].transpose(2, 0, 1) for tile in tiles[:count]]


@pytest.mark.slow
def test_a_run_shows_its_first_batch(tiny, drawn_figures):
    options = ["--data.dataset", "digits", "--data.flip", "false", "--data.crop_padding", "0", *STEP]
    assert main(["fit", *tiny, *options, "--run_dir", "run"]) == 0
    torch.manual_seed(0)
    data = CIFAR10DataModule("digits", batch_size=64, val_size=100, flip=False, crop_padding=0)
    data.setup()
    images, _ = next(iter(data.train_dataloader()))
    png = Path("run/batch.png").read_bytes()
    found = list(read_tiles(png, 40))
    assert np.array_equal(found, images[:40])

    Path("run/batch.png").write_bytes(b"kept")  # a resumed run does not draw another one
    assert main(["fit", "--resume", "run", "--trainer.max_steps", "2"]) == 0
    assert Path("run/batch.png").read_bytes() == b"kept"


@pytest.mark.slow
def test_augmentation_shows(tiny, drawn_figures):
    assert main(["fit", *tiny, *STEP, "--data.cutout", "16", "--run_dir", "cut"]) == 0
    assert main(["fit", *tiny, *STEP, "--run_dir", "whole"]) == 0
    pairs = (list(read_tiles(Path(name, "batch.png").read_bytes(), 16)) for name in ("cut", "whole"))
    covered = [(one != other).any(0).mean() for one, other in zip(*pairs, strict=True)]
    assert 0.03 < np.mean(covered) < 0.26  # a square of at most a quarter of the image


@pytest.mark.parametrize("images", [torch.rand(3, 3, 64, 64), torch.zeros(1, 3, 8, 8), torch.rand(9, 3, 224, 224)])
def test_floats_small_batches_sizes_and_any_name_are_drawn(images):
    sheet = Image.open(io.BytesIO(draw_batch(images, ["猫" * 40] * len(images))))
    tiles = cut_sheet(sheet, len(images), lines=1)
    side = images.shape[-1]
    assert {tile.size for tile in tiles} == {(max(96, 128 if side == 64 else side),) * 2}
    small = np.asarray(tiles[-1].resize((side, side), Image.Resampling.NEAREST)).transpose(2, 0, 1)
    assert np.array_equal(small, images[-1].mul(255).byte())
    with pytest.raises(ValueError, match="pixels, for 40 images"):
        cut_sheet(sheet, 40, lines=1)
