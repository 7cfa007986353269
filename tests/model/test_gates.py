"""Gates compared with their formulas, image by image."""

from typing import get_args

import pytest
import torch
from torch import nn

from lightning_cifar.model.gates import Gate, GateName


@pytest.mark.parametrize("kind", get_args(GateName))
def test_a_gate_starts_at_one(kind):
    gate = Gate(kind, 16, 3, 5)
    assert torch.equal(gate(torch.randn(4, 16)), torch.ones(4, 3, 5 if kind == "channel" else 1))


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("relu", lambda z: [max(0.0, v) for v in z]),
        ("straight_through", lambda z: [max(0.0, v) for v in z]),
        ("residual", lambda z: [1 + v for v in z]),
        ("softmax", lambda z: (3 * torch.tensor(z).div(2.5).softmax(0)).tolist()),
    ],
)
def test_a_gate_equals_its_formula(kind, formula):
    gate = Gate(kind, 6, 3, 5, temperature=2.5)
    (linear,) = gate.layers
    nn.init.normal_(linear.weight)
    nn.init.normal_(linear.bias)
    for mean in torch.randn(8, 6):
        expected = torch.tensor(formula((linear.weight @ mean + linear.bias).tolist()))
        torch.testing.assert_close(gate(mean[None])[0, :, 0], expected)


def test_a_straight_through_gate_has_the_values_of_relu_and_is_switched_on_again():
    plain, straight = Gate("relu", 6, 3, 5), Gate("straight_through", 6, 3, 5)
    means = torch.randn(64, 6)
    for gate in (plain, straight):
        with torch.no_grad():
            gate.layers[0].bias.copy_(torch.tensor([-5.0, 0.5, 1.0]))  # the first branch is off for every image
            gate.layers[0].weight.copy_(torch.linspace(-0.1, 0.1, 18).view(3, 6))
        (gate(means) - 1).square().sum().backward()  # every branch should weigh 1
    assert torch.equal(straight(means), plain(means))
    assert not plain.layers[0].bias.grad[0]
    assert straight.layers[0].bias.grad[0] < 0  # a step raises it
    assert torch.equal(straight.layers[0].bias.grad[1:], plain.layers[0].bias.grad[1:])


def test_channel_gate_is_squeeze_and_excitation_for_each_branch():
    gate = Gate("channel", 16, 3, 5)
    first, _, second = gate.layers
    nn.init.normal_(second.weight)
    assert first.out_features == 4
    for mean in torch.randn(4, 16):
        raw = second.weight @ (first.weight @ mean + first.bias).relu() + second.bias
        torch.testing.assert_close(gate(mean[None])[0], 2 / (1 + (-raw).exp()).view(3, 5))


def test_static_has_no_parameters():
    assert not list(Gate("static", 6, 3, 5).parameters())


def test_softmax_keeps_its_sum():
    gate = Gate("softmax", 6, 3, 5)
    nn.init.normal_(gate.layers[0].weight)
    torch.testing.assert_close(gate(torch.randn(4, 6)).sum(1), torch.full((4, 1), 3.0))


@pytest.mark.parametrize("kind", get_args(GateName))
def test_torch_export_leaves_the_batch_free(kind):
    gate, means = Gate(kind, 6, 3, 5), torch.randn(7, 6)
    program = torch.export.export(gate, (means[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(means), gate(means))
