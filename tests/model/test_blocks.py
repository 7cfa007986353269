"""GatedBlock compared with the report's formula and, for every order of steps, with plain operations."""

from itertools import permutations
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from lightning_cifar import GatedBlock
from lightning_cifar.distributed import Shard
from lightning_cifar.model import parallel
from lightning_cifar.model.blocks import start_as_identity
from lightning_cifar.model.gates import GateName

ORDERS = list(permutations(("activation", "sum", "norm", "pool")))


def apply_formula(block: GatedBlock, x: Tensor) -> Tensor:
    """The report's block, sample by sample, branch by branch."""
    linear = block.gate.layers[0]
    outputs = []
    for image in x:
        gate = F.relu(linear.weight @ image.mean((1, 2)) + linear.bias)
        branches = [
            F.relu(F.conv2d(image[None], branch.weight, branch.bias, padding=branch.weight.shape[-1] // 2))[0]
            for branch in block.branches
        ]
        outputs.append(gate[0] * branches[0] + gate[1] * branches[1] + gate[2] * branches[2])
    return torch.stack(outputs)


def apply_plain(block: GatedBlock, x: Tensor) -> Tensor:
    """The block's steps as plain operations that autograd differentiates."""
    gates = block.gate(x.mean((2, 3)))[..., None, None].unbind(1)
    maps = [branch(x) for branch in block.branches]
    activation = F.gelu if block.activation is F.gelu else torch.relu
    for step in block.order:
        if step == "sum":
            maps = [torch.stack([a * y for a, y in zip(gates, maps, strict=True)]).sum(0)]
        elif step == "norm":
            maps = [F.batch_norm(y, None, None, n.weight, n.bias, True) for y, n in zip(maps, block.norms, strict=True)]
        else:
            maps = [activation(y) if step == "activation" else F.max_pool2d(y, 2) for y in maps]
    return maps[0]


def make_random_block(kernel_sizes=(3, 3, 3), **arguments) -> GatedBlock:
    torch.manual_seed(0)
    block = GatedBlock(5, 8, kernel_sizes, **arguments)
    for layer in block.gate.layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)  # the gate starts constant; here it must depend on the input
    return block


def test_one_pixel_equals_the_hand_computed_value():
    """One pixel, one channel, x = 2: gates relu(3*2-5, -2+1, 0.5*2) = (1, 0, 1); branches relu(8, 2, -6+1)."""
    block = GatedBlock(1, 1, (1, 1, 1))
    with torch.no_grad():
        block.gate.layers[0].weight.copy_(torch.tensor([[3.0], [-1.0], [0.5]]))
        block.gate.layers[0].bias.copy_(torch.tensor([-5.0, 1.0, 0.0]))
        for branch, weight, bias in zip(block.branches, (4.0, 1.0, -3.0), (0.0, 0.0, 1.0), strict=True):
            branch.weight.fill_(weight)
            branch.bias.fill_(bias)
    assert block(torch.full((1, 1, 1, 1), 2.0)).item() == 1 * 8 + 0 * 2 + 1 * 0


@pytest.mark.parametrize("kernel_sizes", [(3, 3, 3), (1, 3, 5)])
def test_a_block_equals_the_formula(kernel_sizes):
    block, x = make_random_block(kernel_sizes), torch.randn(4, 5, 9, 12)
    torch.testing.assert_close(block(x), apply_formula(block, x))


def differentiate(forward, block: GatedBlock, x: Tensor, autocast: bool = False) -> list[Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = forward(block, x)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    block.zero_grad()
    (output.float() * weights).sum().backward()
    return [output, x.grad, *(parameter.grad.clone() for parameter in block.parameters())]


def measure_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp(min=1e-3)).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [
        (torch.float64, False, 1e-12),
        (torch.float32, False, 1e-5),
        (torch.float32, True, 3e-2),
        (torch.bfloat16, False, 4e-2),
    ],
    ids=["float64", "float32", "bf16-mixed", "bf16-true"],
)
def test_gated_sum_has_the_gradients_of_autograd(dtype, autocast, tolerance, layout):
    block = make_random_block().to(dtype, memory_format=layout)
    x = torch.randn(4, 5, 8, 8, dtype=dtype).contiguous(memory_format=layout)
    ours, theirs = (differentiate(forward, block, x, autocast) for forward in (GatedBlock.__call__, apply_plain))
    assert max(map(measure_error, ours, theirs)) <= tolerance


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_every_order_of_steps_equals_plain_operations(order, activation):
    block = make_random_block(order=order, activation=activation).double()
    x = torch.randn(4, 5, 8, 8, dtype=torch.float64)
    ours, theirs = (differentiate(forward, block, x) for forward in (GatedBlock.__call__, apply_plain))
    # A bias before batch norm has gradient 0, which rounding makes 1e-17.
    assert max(map(measure_error, ours, theirs)) <= 1e-10


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel_sizes", [(3, 1, 1), (1, 5, 1, 3), (1, 1), (3, 1)])
@pytest.mark.parametrize("gate", get_args(GateName))
def test_mixed_filters_equal_plain_operations(gate, kernel_sizes, layout, monkeypatch):
    """Only in training, of at least two 1x1 branches beside others, and with as many pixels as channels."""
    mixed, sum_mixed = [], GatedBlock.sum_mixed
    monkeypatch.setattr(GatedBlock, "sum_mixed", lambda *args: mixed.append(args[1].shape) or sum_mixed(*args))
    block = make_random_block(kernel_sizes, order=("sum", "pool", "norm", "activation"), bias=False, gate=gate)
    block.to(torch.float64, memory_format=layout)
    for height, width in ((4, 2), (2, 2)):
        x = torch.randn(4, 5, height, width, dtype=torch.float64).contiguous(memory_format=layout)
        ours, theirs = (differentiate(forward, block, x) for forward in (GatedBlock.__call__, apply_plain))
        assert max(map(measure_error, ours, theirs)) <= 1e-10
    block.eval()(torch.randn(4, 5, 4, 2, dtype=torch.float64))
    expected = kernel_sizes in ((3, 1, 1), (1, 5, 1, 3)) and gate != "channel"
    assert mixed == ([(4, 5, 4, 2)] if expected else [])


@pytest.mark.parametrize("change", [lambda conv: prune.l1_unstructured(conv, "weight", 0.5), weight_norm])
def test_pruned_and_parametrised_filters_are_those_that_train(change):
    block = make_random_block((3, 1, 1), order=("sum", "pool"), bias=False).double()
    change(block.branches[1])
    x = torch.randn(4, 5, 4, 4, dtype=torch.float64)
    for _ in range(2):  # a second step must not differentiate the first one's filters
        ours, theirs = (differentiate(forward, block, x) for forward in (GatedBlock.__call__, apply_plain))
        assert max(map(measure_error, ours, theirs)) <= 1e-10


@pytest.mark.parametrize("arguments", [{"bias": True}, {"order": ("pool", "sum")}, {"partner": torch.arange(6)}])
def test_filters_are_mixed_only_where_that_is_the_same(arguments):
    assert GatedBlock(6, 8, (3, 1, 1), **({"order": ("sum", "pool"), "bias": False} | arguments)).mixed == []


def test_dirac_initialises_the_identity():
    block, x = GatedBlock(5, 8, (3, 3, 1), bias=False, dirac=True), torch.randn(2, 5, 6, 6)
    first, *others = (branch(x) for branch in block.branches)
    torch.testing.assert_close(first[:, :5], x)
    assert first[:, 5:].std() > 0.05
    assert all((other[:, :5] - x).std() > 0.5 for other in others)


@pytest.mark.parametrize("partner", [None, [0, 1, 2, 3, 4], [0, 1, 4, 3, 2], [2, 3, 0, 1, 4]])
@pytest.mark.parametrize("filters", [1, 3, 8])
def test_filters_pass_on_one_channel_of_each_pair(partner, filters):
    weight = torch.randn(filters, 5, 3, 3)
    expected = weight.clone()
    kept = [channel for channel in range(5) if partner is None or channel <= partner[channel]]
    for number, channel in enumerate(kept[:filters]):
        expected[number] = 0
        expected[number, channel, 1, 1] = 1
    start_as_identity(weight, None if partner is None else torch.tensor(partner))
    assert weight.equal(expected)


def test_norm_scale_and_momentum_reach_every_norm():
    block = GatedBlock(3, 4, order=("norm", "sum", "activation"), norm_scale=False, norm_momentum=0.4)
    assert len(block.norms) == 3
    for norm in block.norms:
        assert (norm.momentum, norm.weight.requires_grad, norm.bias.requires_grad) == (0.4, False, True)
    assert len(GatedBlock(3, 4, order=("activation", "sum", "norm")).norms) == 1


def test_depth_adds_residual_convolutions():
    block = make_random_block(order=("pool", "norm", "activation", "sum"), activation="gelu", depth=2).double()
    x = torch.randn(4, 5, 8, 8, dtype=torch.float64)
    expected = apply_plain(block, x)
    for residual in block.residuals:
        y = F.conv2d(expected, residual.conv.weight, padding=1)
        expected = expected + F.gelu(F.batch_norm(y, None, None, residual.norm.weight, residual.norm.bias, True))
    torch.testing.assert_close(block(x), expected)
    assert len(block.residuals) == 2


@pytest.mark.parametrize("kernel_sizes", [(3,), (3, 1), (1, 3, 3, 5)])
@pytest.mark.parametrize("gate", get_args(GateName))
def test_every_gate_and_number_of_branches_equals_plain_operations(gate, kernel_sizes):
    block = make_random_block(kernel_sizes, order=("norm", "activation", "sum"), gate=gate, temperature=2.0).double()
    x = torch.randn(4, 5, 8, 8, dtype=torch.float64)
    ours, theirs = (differentiate(forward, block, x) for forward in (GatedBlock.__call__, apply_plain))
    assert max(map(measure_error, ours, theirs)) <= 1e-10


@pytest.mark.parametrize("kernel_sizes", [(2, 3, 3), (0, 3, 3), (-1, 3, 3), (), ("a",), (3.0,)])
def test_refuses_bad_kernel_sizes(kernel_sizes):
    with pytest.raises(ValueError, match=r"kernel_sizes must be odd numbers, got \["):
        GatedBlock(3, 4, kernel_sizes)


@pytest.mark.parametrize("order", [("activation",), ("sum", "sum"), ("sum", "dropout")])
def test_refuses_bad_orders(order):
    with pytest.raises(
        ValueError,
        match=r"order must contain sum, and each of \('activation', 'sum', 'norm', 'pool'\) at most once, got",
    ):
        GatedBlock(3, 4, order=order)


def test_refuses_values_out_of_range():
    with pytest.raises(ValueError, match="activation must be one of relu, gelu, got tanh"):
        GatedBlock(3, 4, activation="tanh")
    for channels in ((0, 4), (3, 0), (3.0, 4), (3, "4")):
        with pytest.raises(ValueError, match=r"_channels must be (at least 1|a whole number), got"):
            GatedBlock(*channels)
    for name in ("bias", "dirac", "norm_scale"):
        with pytest.raises(ValueError, match=f"{name} must be true or false, got 3"):
            GatedBlock(3, 4, **{name: 3})
    with pytest.raises(ValueError, match=r"norm_momentum must be in \(0, 1\], got 0"):
        GatedBlock(3, 4, norm_momentum=0)
    with pytest.raises(ValueError, match="depth must be at least 0, got -1"):
        GatedBlock(3, 4, depth=-1)
    names = "relu, straight_through, softmax, residual, channel, static"
    with pytest.raises(ValueError, match=f"gate must be one of {names}, got sigmoid"):
        GatedBlock(3, 4, gate="sigmoid")
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        GatedBlock(3, 4, gate="softmax", temperature=0)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_processes_has_the_statistics_of_one_batch(monkeypatch, momentum):
    """Of two processes with equal shards; without momentum it is the mean of all batches, as in weight averaging."""
    monkeypatch.setattr(parallel, "find_shard", lambda: Shard(0, 2))
    monkeypatch.setattr(parallel.Sum, "apply", lambda x: 2 * x)
    ours, plain = parallel.BatchNorm(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(ours(x), plain(torch.cat([x, x]))[:4])
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
