"""GatedBlock against the report's formula: by hand, and the fused form against the three convolutions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cifar import GatedBlock


def formula(block: GatedBlock, x: Tensor) -> Tensor:
    """The report's block, sample by sample, branch by branch."""
    linear = block.gate[2]
    outputs = []
    for image in x:
        gate = F.relu(linear.weight @ image.mean((1, 2)) + linear.bias)
        branches = [
            F.relu(F.conv2d(image[None], branch.weight, branch.bias, padding=branch.weight.shape[-1] // 2))[0]
            for branch in block.branches
        ]
        outputs.append(gate[0] * branches[0] + gate[1] * branches[1] + gate[2] * branches[2])
    return torch.stack(outputs)


def random_block(kernel_sizes=(3, 3, 3), fused=True) -> GatedBlock:
    torch.manual_seed(0)
    block = GatedBlock(5, 8, kernel_sizes, fused)
    torch.nn.init.normal_(block.gate[2].weight)  # the gate starts constant; here it must depend on the input
    return block


def test_by_hand():
    """One pixel, one channel, x = 2: gates relu(3*2-5, -2+1, 0.5*2) = (1, 0, 1); branches relu(8, 2, -6+1)."""
    block = GatedBlock(1, 1, (1, 1, 1))
    with torch.no_grad():
        block.gate[2].weight.copy_(torch.tensor([[3.0], [-1.0], [0.5]]))
        block.gate[2].bias.copy_(torch.tensor([-5.0, 1.0, 0.0]))
        for branch, weight, bias in zip(block.branches, (4.0, 1.0, -3.0), (0.0, 0.0, 1.0), strict=True):
            branch.weight.fill_(weight)
            branch.bias.fill_(bias)
    assert block(torch.full((1, 1, 1, 1), 2.0)).item() == 1 * 8 + 0 * 2 + 1 * 0


@pytest.mark.parametrize("kernel_sizes", [(3, 3, 3), (1, 3, 5)])
@pytest.mark.parametrize("fused", [True, False])
def test_equals_the_formula(kernel_sizes, fused):
    block, x = random_block(kernel_sizes, fused), torch.randn(4, 5, 9, 12)
    torch.testing.assert_close(block(x), formula(block, x))


def outputs_and_gradients(block: GatedBlock, x: Tensor, autocast: bool = False) -> list[Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = block(x)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    block.zero_grad()
    (output.float() * weights).sum().backward()
    return [output, x.grad, *(parameter.grad.clone() for parameter in block.parameters())]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [
        (torch.float64, False, 1e-12),
        (torch.float32, False, 1e-5),
        (torch.float32, True, 2e-2),
        (torch.bfloat16, False, 3e-2),
    ],
    ids=["float64", "float32", "bf16-mixed", "bf16-true"],
)
def test_fused_equals_three_convolutions(dtype, autocast, tolerance, layout):
    block = random_block().to(dtype, memory_format=layout)
    x = torch.randn(4, 5, 8, 8, dtype=dtype).contiguous(memory_format=layout)
    block.fused = True
    fused = outputs_and_gradients(block, x, autocast)
    block.fused = False
    reference = outputs_and_gradients(block, x, autocast)
    for ours, theirs in zip(fused, reference, strict=True):
        error = (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()
        assert error <= tolerance


def test_state_dict_is_the_same_in_both_forms():
    block, other = random_block(fused=True), GatedBlock(5, 8, fused=False)
    other.load_state_dict(block.state_dict())
    x = torch.randn(2, 5, 8, 8)
    torch.testing.assert_close(block(x), other(x))


def test_gate_opens_at_one():
    block, x = GatedBlock(3, 4), torch.randn(2, 3, 8, 8)
    assert torch.equal(block.gate(x), torch.ones(2, 3))


def test_unequal_kernels_are_not_fused():
    assert not GatedBlock(3, 4, (1, 3, 5), fused=True).fused


@pytest.mark.parametrize("kernel_sizes", [(3, 3), (3, 3, 3, 3), (2, 3, 3), (0, 3, 3), (-1, 3, 3)])
def test_refuses_kernel_sizes(kernel_sizes):
    with pytest.raises(ValueError, match=r"kernel_sizes must be three odd numbers, got \["):
        GatedBlock(3, 4, kernel_sizes)
