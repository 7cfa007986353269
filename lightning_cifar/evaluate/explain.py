"""Explanations of a prediction: a class-activation map and, of gated networks, the weights of the branches.

The map is Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): the feature maps of a block, each weighted by the mean
gradient of the class's logit, summed; then ReLU. If a single linear layer follows the global pooling, as in the recipe
`accurate`, that is the class activation map of Zhou et al. 2016 (arXiv 1512.04150) up to its scale. The last block, or
layer of another network, with at least 4x4 pixels is used: smaller maps locate nothing, and earlier blocks separate the
classes less. A test hides the hottest cells to check that they matter (tests/evaluate/test_explain.py).

The gates are shown as each block computes them; a branch's weight is 1 at the start of training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from lightning_cifar.errors import InputError
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.networks.small_images import LEAST
from lightning_cifar.run.figures.fonts import open_font, replace_missing, shorten
from lightning_cifar.run.weights import get_square
from lightning_cifar.train.classifier import ImageClassifier

SIDE, MARGIN, TITLE, SCALE = 256, 12, 30, 26  # of a panel and of its colour bar, in pixels
# Paul Tol's palette, safe for colour-blind readers.
BRANCHES = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
HEAT = (255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)  # colours of 0 to 255


@dataclass
class Explanation:
    """One image: pixels, uint8 (H, W, 3); heat (h, w) in [0, 1]; gates[block][branch], empty without gates."""

    pixels: np.ndarray
    heat: np.ndarray
    gates: list[list[float]]
    branches: list[str]  # names: 3x3, 1x1 ...


def explain_classes(model: ImageClassifier, images: Tensor, classes: Tensor) -> Iterator[Explanation]:
    """Yield an explanation of each class in ``classes`` (B,) for uint8 images (B, 3, H, W), without augmentation."""
    heat, gates = grad_cam(model, images, classes), measure_gates(model, images)
    nets = model.five_block_nets
    sizes = [branch.get_parameter("weight").shape[-1] for branch in nets[0].blocks[0].branches] if nets else []
    branches = [f"{size}x{size}" for size in sizes]
    shown = images.permute(0, 2, 3, 1).cpu().numpy()
    for image, image_heat, image_gates in zip(shown, heat.cpu().numpy(), gates.tolist(), strict=True):
        yield Explanation(image, image_heat, image_gates, branches)


def grad_cam(model: ImageClassifier, images: Tensor, classes: Tensor) -> Tensor:
    """Return heat (B, h, w), with a maximum of 1 in each image or 0 everywhere; of an ensemble, the members' mean."""
    pixels = model.normalise(images)
    heat = torch.stack([weigh_maps(network, pixels, classes) for network in model.networks])
    positive = heat.mean(0).relu()
    highest = positive.amax((1, 2), keepdim=True)
    return positive / highest.where(highest > 0, 1)


def weigh_maps(network: nn.Module, pixels: Tensor, classes: Tensor) -> Tensor:
    """Return signed evidence (B, h, w) for the classes (B,), before ReLU; zeros (B, 1, 1) without feature maps."""
    maps: list[Tensor] = []
    # Attention is square too, as feature maps are.
    others = [layer for layer in network.modules() if not isinstance(layer, nn.Dropout | nn.Softmax)]
    layers = network.blocks if isinstance(network, FiveBlockNet) else others
    if isinstance(network, torch.jit.ScriptModule):  # takes no hooks
        layers = []
    hooks = [layer.register_forward_hook(lambda _, inputs, output: maps.append(output)) for layer in layers]
    try:
        with torch.enable_grad():
            inputs = pixels.detach().requires_grad_().clone()  # no leaf: the network may change it in place
            score = network(inputs).gather(1, classes[:, None]).sum()
    finally:
        for hook in hooks:
            hook.remove()
    large = [one for one in maps if is_map(one)]
    if not large:
        return torch.zeros(len(pixels), 1, 1, device=pixels.device)
    (gradient,) = torch.autograd.grad(score, large[-1])
    return (gradient.mean((2, 3), keepdim=True) * large[-1].detach()).sum(1)


def is_map(output: Any) -> bool:
    """Return whether this is a feature map (B, K, h, w) of at least 4x4 pixels; channels come last in some networks."""
    square = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]
    return square and output.shape[2] >= LEAST


def check_maps(model: ImageClassifier) -> None:
    """Raise `InputError` unless a class-activation map can be drawn of the model's images."""
    side = get_square(model.hparams).side
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=model.device)
    if grad_cam(model, image, torch.zeros(1, dtype=torch.int64, device=model.device)).shape[1] < LEAST:
        name = model.hparams["network"]
        raise InputError(f"--explain needs feature maps of {LEAST}x{LEAST} pixels, which {name} does not have")


@torch.no_grad()
def measure_gates(model: ImageClassifier, images: Tensor) -> Tensor:
    """Return the gates (B, blocks, branches), the mean over the members; (B, 0) of a network without gates."""
    nets = model.five_block_nets
    if not nets:
        return torch.empty(len(images), 0)
    pixels = model.normalise(images)
    each = [torch.stack([gates.mean(2) for gates, _ in one.iterate_blocks(pixels)], 1) for one in nets]
    return torch.stack(each).mean(0)


def draw_heat(explanation: Explanation) -> Image.Image:
    """Draw the image in grey under its heat map."""
    grey = draw_input(explanation).convert("L").convert("RGB")
    heat = Image.fromarray((255 * explanation.heat).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    colours = Image.fromarray(HEAT[np.asarray(heat)])
    return Image.blend(grey, colours, 0.55)


def draw_input(explanation: Explanation) -> Image.Image:
    """Draw the network's input, enlarged without smoothing."""
    return Image.fromarray(explanation.pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def draw_explanation(explanation: Explanation, name: str, probability: float) -> Image.Image:
    """Draw the network's input, the heat map of the class ``name`` and the gates, if there are some, side by side."""
    (shown,) = replace_missing([shorten(name, 16)])
    panels = {
        f"network input, {explanation.pixels.shape[1]}x{explanation.pixels.shape[0]}": draw_input(explanation),
        f"Grad-CAM: {shown} {probability:.1%}": draw_heat(explanation),
    }
    if explanation.gates:
        panels["gates: weight of each branch"] = draw_gates(explanation)
    figure = Image.new("RGB", (len(panels) * (SIDE + MARGIN) + MARGIN + SCALE, SIDE + TITLE + MARGIN), "white")
    write = ImageDraw.Draw(figure)
    title_font = open_font([shown], 14)
    for column, (title, panel) in enumerate(panels.items()):
        left = MARGIN + column * (SIDE + MARGIN) + (SCALE if column > 1 else 0)
        write.text((left, 8), title, "black", title_font)
        figure.paste(panel, (left, TITLE))
    figure.paste(draw_scale(), (2 * (SIDE + MARGIN), TITLE))
    return figure


def draw_scale() -> Image.Image:
    """Draw the colours of the heat map, from 0 to the largest value in the image."""
    shares = np.linspace(255, 0, SIDE).astype(np.uint8)[:, None].repeat(SCALE, 1)
    scale = Image.fromarray(HEAT[shares])
    write = ImageDraw.Draw(scale)
    for text, colour, place in (("max", "black", 8), ("0", "white", SIDE - 8)):
        write.text((SCALE // 2, place), text, colour, font(11), anchor="mm")
    return scale


def draw_gates(explanation: Explanation) -> Image.Image:
    """Draw a bar for each branch of each block, all on one scale."""
    figure = Image.new("RGB", (SIDE, SIDE), "white")
    write = ImageDraw.Draw(figure)
    start = 88
    room = SIDE - start - 40
    block_height = SIDE / len(explanation.gates)
    height = (block_height - 8) / len(explanation.branches)
    scale = room / max(1e-9, *(abs(weight) for block in explanation.gates for weight in block))
    for number, block in enumerate(explanation.gates):
        above = number * block_height
        write.text((0, above + block_height / 2 - 4), f"block {number + 1}", "black", font(13), anchor="lm")
        for branch, weight in enumerate(block):
            top = above + branch * height
            length, colour = abs(weight) * scale, BRANCHES[branch % len(BRANCHES)]
            write.rectangle((start, top + 1, start + length, top + height - 2), colour)
            write.text((start - 5, top + height / 2), explanation.branches[branch], "black", font(11), anchor="rm")
            write.text((start + length + 4, top + height / 2), f"{weight:.2f}", "black", font(11), anchor="lm")
    return figure


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
