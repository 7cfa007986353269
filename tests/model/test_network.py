"""Backbone and FiveBlockNet against the report: stages, order, parameters, classifier."""

import pytest
import torch
from torch import nn

from lightning_cifar import Backbone, FiveBlockNet, GatedBlock, InputError
from lightning_cifar.model.blocks import max_pool
from lightning_cifar.model.network import GlobalMaxPool
from lightning_cifar.model.parallel import BatchNorm, Dropout
from lightning_cifar.model.stem import WhiteningStem

WIDTHS = (4, 6, 8, 10, 12)


def test_five_blocks_each_followed_by_norm_and_pool():
    blocks = list(Backbone(widths=WIDTHS))
    assert [type(block) for block in blocks] == [GatedBlock] * 5
    for block in blocks:
        assert block.order == ("activation", "sum", "norm", "pool")
        assert [type(norm) for norm in block.norms] == [BatchNorm]
    maps = torch.randn(2, 3, 8, 6)
    assert torch.equal(max_pool(maps), nn.functional.max_pool2d(maps, 2))


def test_each_block_halves_the_maps():
    x, shapes = torch.randn(2, 3, 32, 32), []
    for stage in Backbone(widths=WIDTHS):
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 16, 16), (6, 8, 8), (8, 4, 4), (10, 2, 2), (12, 1, 1)]


def test_classifier_is_pool_flatten_and_two_layers_with_relu_and_dropout_between():
    layers = list(FiveBlockNet(widths=WIDTHS, hidden=7, dropout=0.3).classifier)
    kinds = [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.ReLU, Dropout, nn.Linear]
    assert [type(layer) for layer in layers] == kinds
    assert layers[4].p == 0.3
    assert (layers[2].in_features, layers[2].out_features, layers[5].out_features) == (12, 7, 10)


def test_parameter_count():
    """Per block: gate 3(C+1), three convolutions 3K(9C+1), batch norm 2K; then the MLP."""
    inputs, expected = 3, 0
    for width in WIDTHS:
        expected += 3 * (inputs + 1) + 3 * width * (9 * inputs + 1) + 2 * width
        inputs = width
    expected += 7 * (12 + 1) + 10 * (7 + 1)
    net = FiveBlockNet(widths=WIDTHS, hidden=7)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


def test_only_the_chosen_blocks_pool():
    net = Backbone(widths=WIDTHS, pools=(True, False, True, False, False))
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 12, 8, 8)
    assert net(torch.randn(2, 3, 3, 4)).shape == (2, 12, 1, 1)


def test_linear_head_after_global_max_pool():
    net = FiveBlockNet(widths=WIDTHS, hidden=0, global_pool="max", pools=(True, True, False, False, False))
    assert [type(layer) for layer in net.classifier] == [GlobalMaxPool, nn.Flatten, nn.Linear]
    assert net.classifier[2].bias is None
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(2, 1, 32), (3, 1, 32), (3, 2, 16), (4, 4, 8)])
def test_stem_whitens_patches(kernel, stride, size):
    """The filters' responses to patches are uncorrelated, of variance 1, each with its negative."""
    torch.manual_seed(0)
    stem = WhiteningStem(3, kernel, stride, "relu", bias=True, flips=False)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(100, 3, 34, 34), 3, 1)
    stem.whiten(smooth, eps=0)
    channels = 3 * kernel**2
    assert stem(smooth).shape == (100, 2 * channels, size, size)
    responses = torch.nn.functional.conv2d(smooth, stem.conv.weight).transpose(0, 1).flatten(1)
    torch.testing.assert_close(responses[channels:], -responses[:channels])
    second_moment = responses[:channels] @ responses[:channels].T / responses.shape[1]
    torch.testing.assert_close(second_moment, torch.eye(channels), atol=2e-2, rtol=0)
    assert not stem.conv.weight.requires_grad
    assert stem.conv.bias.requires_grad


def test_a_stem_without_bias_needs_no_gradient():
    net = FiveBlockNet(widths=WIDTHS, stem_kernel=3, stem_stride=2, stem_bias=False, pools=(True,) * 4 + (False,))
    assert not net.stem(torch.randn(2, 3, 32, 32)).requires_grad
    assert not any(parameter.requires_grad for parameter in net.stem.parameters())
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_depths_add_residual_convolutions_to_each_block():
    net = Backbone(widths=WIDTHS, depths=(0, 2, 0, 1, 0))
    assert [len(block.residuals) for block in net] == [0, 2, 0, 1, 0]
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 12, 1, 1)


def test_stem_is_whitened_once():
    stem, other = (WhiteningStem(3, 2, 1, "relu", bias=True, flips=False) for _ in range(2))
    stem.whiten(torch.randn(10, 3, 32, 32))
    other.load_state_dict(stem.state_dict())
    other.whiten(torch.randn(10, 3, 32, 32))
    assert torch.equal(other.conv.weight, stem.conv.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (8, 8, 8, 8)}, r"widths must have one value for each of five blocks, got \[8, 8, 8, 8\]"),
        ({"widths": (8, 8, 8, 8, 0)}, "widths must be at least 1, got 0"),
        ({"global_pool": "sum"}, "global_pool must be one of average, max, got sum"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"hidden": -1}, "hidden must be at least 0, got -1"),
        ({"stem_kernel": -1}, "stem_kernel must be at least 0, got -1"),
        ({"stem_kernel": 2, "stem_stride": 3}, r"stem_stride must be in \[1, 2\], got 3"),
        ({"stem_kernel": 2, "stem_stride": 1.5}, "stem_stride must be a whole number, got 1.5"),
        ({"depths": (1, 1, -1, 1, 1)}, "depths must be at least 0, got -1"),
        ({"depths": (1, 1)}, r"depths must have one value for each of five blocks, got \[1, 1\]"),
        ({"pools": ("x",) * 5}, "pools must be true or false, got 'x'"),
        ({"flip_equivariant": "x"}, "flip_equivariant must be true or false, got 'x'"),
        ({"pools": (True,)}, r"pools must have one value for each of five blocks, got \[True\]"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FiveBlockNet(**arguments)


@pytest.mark.parametrize("stem_kernel", [0, 2])
@pytest.mark.parametrize("gate", ["relu", "channel", "static"])
def test_iterate_blocks_returns_the_gate_weights_used(gate, stem_kernel):
    network = FiveBlockNet(widths=(4, 4, 4, 4, 4), gate=gate, stem_kernel=stem_kernel).eval()
    for parameter in network.parameters():
        parameter.data.normal_()
    used = []
    for block in network.blocks:
        block.gate.register_forward_hook(lambda *call: used.append(call[2]))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        network(images)
        expected, used = used, []
        found = [weights for weights, _ in network.iterate_blocks(images)]
    assert [weights.shape for weights in found] == [(3, 3, 4 if gate == "channel" else 1)] * 5
    for weights, expected_weights in zip(found, expected, strict=True):
        torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("size", [(32, 32), (33, 40), (97, 32), (64, 64), (31, 31), (24, 24), (1, 5)])
def test_accepts_images_of_any_size(size):
    net = FiveBlockNet(num_classes=7, widths=WIDTHS)
    for training in (True, False):
        assert net.train(training)(torch.randn(2, 3, *size)).shape == (2, 7)


def test_patches_are_no_larger_than_the_images():
    stem = WhiteningStem(1, 9, 1, "relu", bias=True, flips=False)
    with pytest.raises(InputError, match="stem_kernel must be at most the 8 pixels of an image, got 9"):
        stem.whiten(torch.rand(2, 1, 8, 8))
