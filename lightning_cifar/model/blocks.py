"""GatedBlock: convolutions of one input, three in the report, mixed per sample by a gate computed from that input.

Relatives in the literature: Squeeze-and-Excitation (arXiv 1709.01507), SKNet (1903.06586),
CondConv (1904.04971), Dynamic Convolution (1912.03458).

Shapes: B samples, C input channels, N branches, K output channels, H x W pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError, check_choice
from lightning_cifar.model.flip_equivariance import FlipBatchNorm, FlipConv2d, halves
from lightning_cifar.model.gates import Gate, GateName
from lightning_cifar.model.parallel import BatchNorm

# In place: no convolution, norm or pooling needs its own output to be differentiated.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": partial(F.relu, inplace=True), "gelu": F.gelu}

Step = Literal["activation", "sum", "norm", "pool"]
Activation = Literal["relu", "gelu"]


class GatedBlock(nn.Module):
    """``a1*relu(conv1(x)) + a2*relu(conv2(x)) + a3*relu(conv3(x))`` with ``a = relu(Linear(mean(x)))``.

    That is the report's formula, and ``order`` as it stands; other orders put batch norm and pooling inside.

    Args:
        in_channels: C, at least 1.
        out_channels: K, at least 1.
        kernel_sizes: odd sizes of the convolutions, three in the report; each keeps H and W.
        order: what follows the convolutions, step by step: ``activation``, gated ``sum``, batch ``norm`` and 2x2 max
            ``pool``, each at most once, ``sum`` always. What comes before the sum is done to each branch apart.
        activation: ``relu`` or ``gelu``.
        bias: whether the convolutions have one; where the norm follows them, it makes theirs void.
        dirac: start the first C filters of the first convolution as the identity (arXiv 1706.00388, cifar10-airbench).
        norm_scale: learn batch norm's scale, and not its shift alone.
        norm_momentum: weight in (0, 1] of the newest batch in batch norm's running statistics.
        depth: how many residual convolutions follow (see `Residual`).
        gate: ``relu`` as reported, ``softmax``, ``residual``, ``channel`` or ``static`` (see `Gate`).
        temperature: of the softmax gate, above 0.
        partner: makes the block flip-equivariant: (C,), which channel of the input is the mirror twin of which (see
            `flips`). Those of the output, K even, are `halves`.
    """

    partner: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int] = (3, 3, 3),
        order: Sequence[Step] = ("activation", "sum"),
        activation: Activation = "relu",
        bias: bool = True,
        dirac: bool = False,
        norm_scale: bool = True,
        norm_momentum: float = 0.1,
        depth: int = 0,
        gate: GateName = "relu",
        temperature: float = 1.0,
        partner: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not kernel_sizes or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise InputError(f"kernel_sizes must be odd numbers, got {list(kernel_sizes)}")
        if "sum" not in order or len(set(order)) != len(order) or not set(order) <= {*get_args(Step)}:
            steps = ", ".join(get_args(Step))
            raise InputError(f"order must name sum and, once each, any of {steps}; got {list(order)}")
        check_choice("activation", activation, Activation)
        if not 0 < norm_momentum <= 1:
            raise InputError(f"norm_momentum must be in (0, 1], got {norm_momentum}")
        if depth < 0:
            raise InputError(f"depth must be at least 0, got {depth}")
        check_choice("gate", gate, GateName)
        if not temperature > 0:
            raise InputError(f"temperature must be above 0, got {temperature}")
        if partner is not None and out_channels % 2:
            raise InputError(f"the widths of flip-equivariant blocks must be even, got {out_channels}")
        self.order = tuple(order)
        self.register_buffer("partner", partner, persistent=False)
        gated = out_channels // 2 if partner is not None else out_channels
        self.gate = Gate(gate, in_channels, len(kernel_sizes), gated, temperature)
        self.branches = nn.ModuleList(
            convolution(in_channels, out_channels, size, bias, partner) for size in kernel_sizes
        )
        if dirac:
            start_as_identity(self.branches[0].get_parameter("weight"), partner)
        self.activation = ACTIVATIONS[activation]
        self.pool = MaxPool()
        norm = (out_channels, norm_scale, norm_momentum, partner is not None)
        if "norm" in order:
            branches = len(kernel_sizes) if order.index("norm") < order.index("sum") else 1
            self.norms = nn.ModuleList(batch_norm(*norm) for _ in range(branches))
        self.residuals = nn.ModuleList(Residual(self.activation, *norm) for _ in range(depth))

    def gates(self, x: Tensor) -> Tensor:
        """What the gate gives the branches for maps (B, C, H, W): (B, N, 1 or K)."""
        # The average pool, as a sum: its gradient is added to the convolutions' without being written out, and in their
        # memory format, which saves 2 % of a step on CPU.
        means = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        if self.partner is not None:
            means = (means + means[:, self.partner]) / 2
        gate: Tensor = self.gate(means)
        return gate if self.partner is None or gate.shape[2] == 1 else gate.repeat(1, 1, 2)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H, W), or half of H and W where it pools
        gate = self.gates(x)
        # Apart, and not as one convolution with 3K filters, which is the slower form on CPU: what follows then walks
        # through contiguous memory (benchmarks/step.py).
        maps = [branch(x) for branch in self.branches]
        for step in self.order:
            if step == "activation":
                maps = [self.activation(y) for y in maps]
            elif step == "sum":
                maps = [GatedSum.apply(gate, *maps)]
            elif step == "norm":
                maps = [norm(y) for norm, y in zip(self.norms, maps, strict=True)]
            else:
                maps = [self.pool(y) for y in maps]
        (y,) = maps
        for residual in self.residuals:
            y = residual(y)
        return y


class Residual(nn.Module):
    """``x + activation(norm(conv(x)))`` with a 3x3 convolution: depth inside a block, (B, K, H, W) to the same."""

    def __init__(
        self, activation: Callable[[Tensor], Tensor], channels: int, scale: bool, momentum: float, flips: bool
    ) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, 3, False, halves(channels) if flips else None)
        self.norm = batch_norm(channels, scale, momentum, flips)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.activation(self.norm(self.conv(x)))


def convolution(inputs: int, outputs: int, size: int, bias: bool, partner: Tensor | None) -> nn.Conv2d:
    if partner is None:
        return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
    return FlipConv2d(inputs, outputs, size, bias, partner)


@torch.no_grad()
def start_as_identity(weight: Tensor, partner: Tensor | None) -> None:
    """The first filters of a convolution pass on its channels; of twins, one, since the filters have twins too."""
    channels = torch.arange(weight.shape[1])
    if partner is not None:
        channels = channels[channels <= partner]
    channels = channels[: len(weight)]
    middle = weight.shape[2] // 2
    weight[: len(channels)] = 0
    weight[torch.arange(len(channels)), channels, middle, middle] = 1


def batch_norm(channels: int, scale: bool, momentum: float, flips: bool) -> BatchNorm:
    norm = FlipBatchNorm(channels, momentum) if flips else BatchNorm(channels, momentum=momentum)
    norm.weight.requires_grad_(scale)
    return norm


class MaxPool(nn.Module):
    """2x2 max pool; a side of odd length by 3 around every second pixel, so that left and right are treated alike.

    (B, K, H, W) to (B, K, H/2, W/2), rounded up.
    """

    def forward(self, x: Tensor) -> Tensor:
        odd = (x.shape[2] % 2, x.shape[3] % 2)
        return F.max_pool2d(x, (2 + odd[0], 2 + odd[1]), 2, odd)


class GatedSum(torch.autograd.Function):
    """``a1*y1 + a2*y2 + ...`` of gates (B, N, 1 or K) and N maps (B, K, H, W), in as few passes over memory as can be.

    Forward in fused multiply-adds; backward takes the gates' gradients as dot products, where autograd would
    write each product out and sum it.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, *maps: Tensor) -> Tensor:
        ctx.save_for_backward(gate, *maps)
        first, *others = gate.to(maps[0].dtype)[..., None, None].unbind(1)  # each (B, 1 or K, 1, 1)
        total = first * maps[0]
        for a, y in zip(others, maps[1:], strict=True):
            total = torch.addcmul(total, a, y)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, *maps = ctx.saved_tensors
        (gradient,) = gradients
        for_maps = [a * gradient for a in gate.to(gradient.dtype)[..., None, None].unbind(1)]
        if not ctx.needs_input_grad[0]:
            return None, *for_maps
        if gate.shape[2] == 1:
            # The longest contiguous order that both have in common: channels last, as everywhere in this package.
            flat = gradient.permute(0, 2, 3, 1).flatten(1)  # (B, H*W*K)
            # Not a batched matrix product, which takes 15 times as long on a CPU in bfloat16.
            products = [torch.linalg.vecdot(flat, y.permute(0, 2, 3, 1).flatten(1))[:, None] for y in maps]
        else:
            products = [(gradient * y).sum((2, 3)) for y in maps]
        return torch.stack(products, 1).to(gate.dtype), *for_maps
