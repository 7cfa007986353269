"""Networks made for images of 224 pixels, fitted to small ones.

Such networks begin with a stem that reduces height and width to a quarter. A 32x32 image would shrink to 1x1 before the
last layers. CIFAR versions therefore begin with a 3x3 convolution of stride 1 and do not pool after it (He et al. 2016,
arXiv 1512.03385, section 4.2).
"""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_cifar.networks.mode import evaluating

LEAST = 4  # pixels along a side of the last feature map
PROBE = 128  # pixels along a side of the image that finds the strides: enough for a total stride of 64
Reducing = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d


def fit_to_small_images(network: nn.Module, size: int) -> None:
    """Remove the first strides of a network, in place, until images of ``size`` pixels end in a map of at least 4x4.

    A convolution without its stride keeps kernels of 1x1 and 3x3; any other becomes 3x3. A pool whose stride becomes 1
    is removed.
    """
    sides = measure_sides(network)
    if not sides:
        return
    total = PROBE // min(after for _, after in sides.values())
    excess = total * LEAST // size
    for before in sorted({before for before, _ in sides.values()}, reverse=True):
        if excess < 2:
            break
        level = {name: before // after for name, (start, after) in sides.items() if start == before}
        for name, factor in level.items():
            replace_layer(network, name, stride=max(1, factor // excess))
        excess //= max(level.values())


@torch.no_grad()
def probe(network: nn.Module, count: int, size: int, layout: torch.memory_format = torch.contiguous_format) -> Any:
    """Return a network's output, in evaluation mode, for black images (count, 3, size, size); it stays as it was."""
    with evaluating(network):
        return network(torch.zeros(count, 3, size, size).to(memory_format=layout))


def measure_sides(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the name of each layer that reduces the height of an image, with the height before and after it."""
    sides: dict[str, tuple[int, int]] = {}

    def record(name: str, before: Tensor, after: Tensor) -> None:
        if 2 * before.shape[2] >= 3 * after.shape[2]:  # less is lost at edges without padding
            sides[name] = (before.shape[2], after.shape[2])

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: record(name, inputs[0], output))
        for name, module in network.named_modules()
        if isinstance(module, Reducing)
    ]
    try:
        probe(network, 1, PROBE)
    finally:
        for hook in hooks:
            hook.remove()
    return sides


def replace_layer(network: nn.Module, name: str, stride: int) -> None:
    """Replace a convolution or pool by one of ``stride``."""
    parent, _, last = name.rpartition(".")
    layer = network.get_submodule(name)
    if not isinstance(layer, nn.Conv2d):
        layer = nn.Identity() if stride == 1 else type(layer)(stride)
    elif layer.kernel_size in ((1, 1), (3, 3)):
        layer.stride = (stride, stride)
    else:
        bias = layer.bias is not None
        layer = nn.Conv2d(layer.in_channels, layer.out_channels, 3, stride, 1, groups=layer.groups, bias=bias)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    setattr(network.get_submodule(parent), last, layer)
