"""Flip-equivariant layers compared with plain ones of the same filters, and on mirrored images."""

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_cifar import FiveBlockNet, GatedBlock
from lightning_cifar.model.flip_equivariance import FlipBatchNorm, FlipConv2d, pair_halves
from lightning_cifar.model.gates import GateName
from lightning_cifar.model.parallel import BatchNorm
from lightning_cifar.model.stem import WhiteningStem

WIDTHS = (4, 6, 8, 10, 12)
SPEED = {  # the options of the recipe `accurate`
    "stem_kernel": 2,
    "stem_bias": False,
    "kernel_sizes": (3, 1, 1),
    "depths": (1, 2, 0, 1, 0),
    "pools": (True, False, True, False, True),
    "order": ("pool", "norm", "activation", "sum"),
    "activation": "gelu",
    "bias": False,
    "dirac": True,
    "norm_scale": False,
    "global_pool": "max",
    "hidden": 0,
}


def mirror(maps: torch.Tensor) -> torch.Tensor:
    return maps.flip(3)[:, pair_halves(maps.shape[1])]


def randomise_gates(net: FiveBlockNet) -> FiveBlockNet:
    for block in net.blocks:
        for layer in block.gate.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight)
    return net


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("partner", [torch.arange(6), pair_halves(6), torch.tensor([0, 2, 1, 3, 5, 4])], ids=str)
def test_convolution_is_a_plain_one_with_twin_filters(partner, bias):
    flip = FlipConv2d(6, 8, 3, bias, partner).double()
    plain = nn.Conv2d(6, 8, 3, padding=1, bias=bias).double()
    with torch.no_grad():
        for k in range(4):
            plain.weight[k] = flip.weight[k]
            for c in range(6):
                plain.weight[4 + k, partner[c]] = flip.weight[k, c].flip(1)
            if bias:
                plain.bias[k] = plain.bias[4 + k] = flip.bias[k]
    x = torch.randn(3, 6, 7, 10, dtype=torch.float64)
    torch.testing.assert_close(flip(x), plain(x))
    torch.testing.assert_close(flip(x.flip(3)[:, partner]), mirror(flip(x)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_has_the_statistics_of_both_twins(layout):
    flip, plain = FlipBatchNorm(6, momentum=0.3), BatchNorm(3, momentum=0.3)
    x = torch.randn(4, 6, 5, 8).contiguous(memory_format=layout)
    both = plain(torch.cat([x[:, :3], x[:, 3:]]))
    torch.testing.assert_close(flip(x), torch.cat(both.chunk(2), 1))
    torch.testing.assert_close(flip.running_var, plain.running_var)
    flip.eval(), plain.eval()
    torch.testing.assert_close(flip(x)[:, 3:], plain(x[:, 3:]))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_stem_filters_are_mirror_images_of_their_partners(kernel):
    torch.manual_seed(0)
    stem = WhiteningStem(3, kernel, 1, "relu", bias=False, flips=True)
    images = F.avg_pool2d(torch.randn(50, 3, 18, 18), 3, 1)
    stem.whiten(images, eps=0)
    weight, partner = stem.conv.weight, stem.partner
    torch.testing.assert_close(weight.flip(3), weight[partner], atol=1e-4, rtol=0)
    assert torch.equal(partner[partner], torch.arange(len(partner)))
    torch.testing.assert_close(stem(images.flip(3)), stem(images).flip(3)[:, partner])
    responses = F.conv2d(torch.cat([images, images.flip(3)]), weight[: len(weight) // 2]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(
        responses @ responses.T / responses.shape[1], torch.eye(len(weight) // 2), atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("size", [32, 24, (33, 37), (64, 50)])
@pytest.mark.parametrize("options", [{}, SPEED], ids=["report", "accurate"])
def test_mirrored_images_have_mirrored_maps_and_the_same_logits(options, size):
    torch.manual_seed(0)
    options = options | ({"pools": (True, True, True, True, False)} if size == 24 else {})
    net = randomise_gates(FiveBlockNet(7, widths=WIDTHS, flip_equivariant=True, **options)).double()
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(5, 3, height, width, dtype=torch.float64)
    if net.stem is not None:
        net.stem.float().whiten(x.float())
        net.stem.double()
        # whitened in single precision: mirror images up to its rounding
        weight = net.stem.conv.weight
        weight.copy_((weight + weight.flip(3)[net.stem.partner]) / 2)
    for training in (True, False):
        net.train(training)
        torch.manual_seed(1)  # the same dropout
        logits = net(x)
        torch.manual_seed(1)
        torch.testing.assert_close(net(x.flip(3)), logits)
    for (gates, maps), (others, theirs) in zip(net.iterate_blocks(x), net.iterate_blocks(x.flip(3)), strict=True):
        torch.testing.assert_close(others, gates)
        torch.testing.assert_close(theirs, mirror(maps))


@pytest.mark.parametrize("gate", get_args(GateName))
def test_every_gate_treats_twins_alike(gate):
    torch.manual_seed(0)
    net = randomise_gates(FiveBlockNet(widths=WIDTHS, gate=gate, flip_equivariant=True)).eval()
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(net(x.flip(3)), net(x))


def test_half_the_filters_are_learned():
    def count_filters(net: FiveBlockNet) -> int:
        return sum(parameter.numel() for name, parameter in net.named_parameters() if parameter.ndim == 4)

    assert count_filters(FiveBlockNet(flip_equivariant=True)) * 2 == count_filters(FiveBlockNet())


def test_dirac_passes_on_one_of_two_twins():
    block = GatedBlock(6, 8, (3, 1), bias=False, dirac=True, partner=pair_halves(6))
    x = torch.randn(2, 6, 5, 5)
    maps = block.branches[0](x)
    torch.testing.assert_close(maps[:, :3], x[:, :3])
    torch.testing.assert_close(maps[:, 4:7], x[:, 3:])
    assert maps[:, 3].std() > 0.05


@pytest.mark.slow
def test_torch_export_leaves_the_batch_free():
    net = FiveBlockNet(widths=WIDTHS, flip_equivariant=True).eval()
    x = torch.randn(5, 3, 32, 32)
    program = torch.export.export(net, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 6, 8, 10, 11)}, "flip_equivariant needs even widths, got 11"),
        ({"stem_kernel": 2}, "flip_equivariant needs a stem without bias: set stem_bias to false"),
        (
            {"stem_kernel": 3, "stem_stride": 2, "stem_bias": False},
            "flip_equivariant with stem_kernel 3 needs stem_stride 1 or odd",
        ),
    ],
)
def test_refuses_options_that_cannot_be_mirrored(options, message):
    with pytest.raises(ValueError, match=message):
        FiveBlockNet(flip_equivariant=True, **options)
