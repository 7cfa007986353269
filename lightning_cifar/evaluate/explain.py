"""What of a picture spoke for a class, and which branches the gates opened for it.

The heat map is Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): the maps K of a block, each weighted by the mean
gradient of the class's logit, summed, and what is positive of it. Where one linear layer follows the global pooling, as
in `accurate`, that is the class activation map (Zhou et al. 2016, arXiv 1512.04150) but for its scale. It is taken from
the last block that leaves at least 4x4 pixels: fewer show no place, and earlier blocks know less of classes. That the
hottest places count is tested by hiding them (tests/results/test_explain.py).

The gates are shown as they are in each block: the weight of each branch, 1 where training began.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.train.classifier import ImageClassifier

LEAST = 4  # pixels along a side of the maps that the heat is taken from
SIDE, MARGIN, TITLE = 256, 12, 30  # of what is drawn, pixels
BRANCHES = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")  # Paul Tol's, for all eyes


@dataclass
class Explanation:
    """Of one picture: its pixels (32, 32, 3), uint8; heat (h, w) in [0, 1]; gates: for each block, of each branch."""

    pixels: np.ndarray
    heat: np.ndarray
    gates: list[list[float]]
    branches: list[str]  # names of the branches: 3x3, 1x1 ...


def explained(model: ImageClassifier, images: Tensor, classes: Tensor) -> Iterator[Explanation]:
    """What spoke for ``classes`` (B,) in ``images`` (B, 3, 32, 32), uint8, as they are: without augmentation."""
    heat, gates = grad_cam(model, images, classes)
    sizes = [branch.get_parameter("weight").shape[-1] for branch in model.networks[0].blocks[0].branches]
    branches = [f"{size}x{size}" for size in sizes]
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    for one, its_heat, its_gates in zip(pixels, heat.cpu().numpy(), gates.tolist(), strict=True):
        yield Explanation(one, its_heat, its_gates, branches)


def grad_cam(model: ImageClassifier, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Heat (B, h, w), of each image 1 where it is highest, or 0 everywhere; gates (B, blocks, branches).

    Of an ensemble, both are the means over its members.
    """
    pixels = model.normalise(images)
    heat, gates = zip(*(evidence(network, pixels, classes) for network in model.networks), strict=True)
    positive = torch.stack(heat).mean(0).relu()
    highest = positive.amax((1, 2), keepdim=True)
    return positive / highest.where(highest > 0, 1), torch.stack(gates).mean(0)


def evidence(network: FiveBlockNet, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """For and against the classes (B,): weighted sums (B, h, w) of a block's maps; gates (B, blocks, branches)."""
    blocks, gates = network.blocks, []
    with torch.no_grad():
        for number, (weights, maps) in enumerate(network.iterate_blocks(pixels)):
            gates.append(weights.mean(2))
            if number == 0 or min(maps.shape[2:]) >= LEAST:
                chosen, rest = maps, blocks[number + 1 :]
    with torch.enable_grad():
        tail = chosen = chosen.detach().requires_grad_()
        for block in rest:
            tail = block(tail)
        logits = network.classifier(tail).gather(1, classes[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), chosen)
    return (gradient.mean((2, 3), keepdim=True) * chosen.detach()).sum(1), torch.stack(gates, 1)


def overlay(one: Explanation) -> Image.Image:
    """The picture in grey, with its heat over it."""
    grey = seen(one).convert("L").convert("RGB")
    heat = Image.fromarray((255 * one.heat).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    colours = Image.fromarray(colour_table()[np.asarray(heat)])
    return Image.blend(grey, colours, 0.55)


def seen(one: Explanation) -> Image.Image:
    """What the network saw, enlarged pixel by pixel."""
    return Image.fromarray(one.pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def picture(one: Explanation, name: str, probability: float) -> Image.Image:
    """Side by side: what the network saw, enlarged; the heat; the gates."""
    drawn = Image.new("RGB", (3 * SIDE + 4 * MARGIN, SIDE + TITLE + MARGIN), "white")
    titles = ("what the network sees", f"{name[:24]} {probability:.1%}", "gates: weight of each branch")
    write = ImageDraw.Draw(drawn)
    for column, (title, panel) in enumerate(zip(titles, (seen(one), overlay(one), gate_bars(one)), strict=True)):
        left = MARGIN + column * (SIDE + MARGIN)
        write.text((left, 8), title, "black", font(15))
        drawn.paste(panel, (left, TITLE))
    return drawn


def gate_bars(one: Explanation) -> Image.Image:
    """A bar for each branch of each block, the longest of a block as long as there is room: blocks do not compare."""
    drawn = Image.new("RGB", (SIDE, SIDE), "white")
    write = ImageDraw.Draw(drawn)
    start = 88
    room = SIDE - start - 40
    block_height = SIDE / len(one.gates)
    height = (block_height - 8) / len(one.branches)
    for number, block in enumerate(one.gates):
        above = number * block_height
        scale = room / max(1e-9, *map(abs, block))
        write.text((0, above + block_height / 2 - 4), f"block {number + 1}", "black", font(13), anchor="lm")
        for branch, weight in enumerate(block):
            top = above + branch * height
            length, colour = abs(weight) * scale, BRANCHES[branch % len(BRANCHES)]
            write.rectangle((start, top + 1, start + length, top + height - 2), colour)
            write.text((start - 5, top + height / 2), one.branches[branch], "black", font(11), anchor="rm")
            write.text((start + length + 4, top + height / 2), f"{weight:.2f}", "black", font(11), anchor="lm")
    return drawn


def data_uri(drawn: Image.Image) -> str:
    """The picture as a PNG inside an address."""
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@cache
def colour_table() -> np.ndarray:
    return (255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
