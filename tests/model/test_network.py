"""Backbone and FiveBlockNet against the report: stages, order, parameters, classifier."""

import pytest
import torch
from torch import nn

from lightning_cifar import Backbone, FiveBlockNet, GatedBlock

WIDTHS = (4, 6, 8, 10, 12)


def test_five_stages_of_block_norm_and_pool():
    stages = list(Backbone(widths=WIDTHS))
    assert len(stages) == 5
    for stage in stages:
        assert [type(layer) for layer in stage] == [GatedBlock, nn.BatchNorm2d, nn.MaxPool2d]
        assert stage[2].kernel_size == 2


def test_stage_shapes():
    x, shapes = torch.randn(2, 3, 32, 32), []
    for stage in Backbone(widths=WIDTHS):
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 16, 16), (6, 8, 8), (8, 4, 4), (10, 2, 2), (12, 1, 1)]


def test_classifier_is_pool_flatten_and_two_layers_with_relu_and_dropout_between():
    layers = list(FiveBlockNet(widths=WIDTHS, hidden=7, dropout=0.3).classifier)
    kinds = [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
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


@pytest.mark.parametrize("size", [(32, 32), (33, 40), (64, 64), (97, 32)])
def test_any_size_from_32_up(size):
    net = FiveBlockNet(num_classes=7, widths=WIDTHS)
    assert net(torch.randn(2, 3, *size)).shape == (2, 7)


def test_fused_is_handed_to_every_block():
    assert all(stage[0].fused for stage in Backbone(widths=WIDTHS, fused=True))
    assert not any(stage[0].fused for stage in Backbone(widths=WIDTHS, fused=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (8, 8, 8, 8)}, r"widths must be five positive numbers, got \[8, 8, 8, 8\]"),
        ({"widths": (8, 8, 8, 8, 0)}, "widths must be five positive numbers"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FiveBlockNet(**arguments)


def test_refuses_small_images():
    with pytest.raises(ValueError, match="at least 32x32, got 32x31"):
        FiveBlockNet(widths=WIDTHS)(torch.randn(1, 3, 32, 31))
