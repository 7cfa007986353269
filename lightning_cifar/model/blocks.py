"""GatedBlock: convolutions of one input, summed with weights that a gate computes from the same input.

Related work: Squeeze-and-Excitation (arXiv 1709.01507), SKNet (1903.06586), CondConv (1904.04971), Dynamic Convolution
(1912.03458). Shapes: B samples, C input channels, N branches, K output channels, H x W pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.errors import InputError, check_choice, check_flag, check_list, check_range
from lightning_cifar.model.flip_equivariance import FlipBatchNorm, FlipConv2d, pair_halves
from lightning_cifar.model.gates import Gate, GateName
from lightning_cifar.model.parallel import BatchNorm
from lightning_cifar.model.pooling import max_pool

Step = Literal["activation", "sum", "norm", "pool"]
Activation = Literal["relu", "gelu"]
# In place: no convolution, norm or pooling needs its output for the backward pass.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": partial(F.relu, inplace=True), "gelu": F.gelu}


class GatedBlock(nn.Module):
    """``a1*relu(conv1(x)) + a2*relu(conv2(x)) + a3*relu(conv3(x))`` with ``a = relu(Linear(mean(x)))``, by default.

    Maps (B, C, H, W) to (B, K, H, W), or to half of H and W, rounded up, if ``order`` contains ``pool``.

    Args:
        in_channels: C, at least 1.
        out_channels: K, at least 1.
        kernel_sizes: odd sizes of the N convolutions; each keeps H and W.
        order: the steps after the convolutions: ``activation``, gated ``sum``, batch ``norm`` and 2x2 max ``pool``,
            each at most once; ``sum`` is required. Steps before the sum apply to each branch.
        activation: see `FiveBlockNet`, as for ``bias``, ``dirac``, ``norm_scale``, ``norm_momentum``, ``gate`` and
            ``temperature``.
        depth: number of `Residual` convolutions after the other steps.
        partner: (C,), the mirror twins of the input channels, for a flip-equivariant block (see
            `lightning_cifar.model.flip_equivariance`); K must be even, and the twins of the output are its halves.
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
        for name, flag in (("bias", bias), ("dirac", dirac), ("norm_scale", norm_scale)):
            check_flag(name, flag)
        check_range("in_channels", in_channels, "[1, inf)", whole=True)
        check_range("out_channels", out_channels, "[1, inf)", whole=True)
        check_list("kernel_sizes", kernel_sizes)
        if not kernel_sizes or any(not isinstance(size, int) or size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise InputError(f"kernel_sizes must be odd numbers, got {list(kernel_sizes)}")
        if "sum" not in order or len(set(order)) != len(order) or not set(order) <= {*get_args(Step)}:
            raise InputError(f"order must contain sum, and each of {get_args(Step)} at most once, got {list(order)}")
        check_choice("activation", activation, Activation)
        check_choice("gate", gate, GateName)
        check_range("norm_momentum", norm_momentum, "(0, 1]")
        check_range("depth", depth, "[0, inf)", whole=True)
        check_range("temperature", temperature, "(0, inf)")
        flips = partner is not None
        if flips and out_channels % 2:
            raise InputError(f"flip_equivariant needs even widths, got {out_channels}")
        self.order = tuple(order)
        self.register_buffer("partner", partner, persistent=False)
        branches, gated = len(kernel_sizes), out_channels // 2 if flips else out_channels
        self.gate = Gate(gate, in_channels, branches, gated, temperature)
        convolutions = (make_convolution(in_channels, out_channels, size, bias, partner) for size in kernel_sizes)
        self.branches = nn.ModuleList(convolutions)
        # Of these, `sum_mixed` sums the filters: nothing comes before the sum, and a gate weights a whole map.
        mixes = order[0] == "sum" and not bias and not flips and gate != "channel"
        self.mixed = [index for index, size in enumerate(kernel_sizes) if mixes and size == 1]
        if dirac:
            start_as_identity(self.branches[0].get_parameter("weight"), partner)
        self.activation = ACTIVATIONS[activation]
        make_norm = partial(FlipBatchNorm if flips else BatchNorm, out_channels, momentum=norm_momentum)
        if "norm" in order:
            norms = branches if order.index("norm") < order.index("sum") else 1
            self.norms = nn.ModuleList(make_norm() for _ in range(norms))
        self.residuals = nn.Sequential()
        for _ in range(depth):
            conv = make_convolution(out_channels, out_channels, 3, False, pair_halves(out_channels) if flips else None)
            self.residuals.append(Residual(conv, make_norm(), self.activation))
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.weight.requires_grad_(norm_scale)

    def compute_gates(self, x: Tensor) -> Tensor:
        """Return the branches' weights for an input (B, C, H, W): (B, N, 1), or (B, N, K) from a ``channel`` gate."""
        # Average pool as a sum: its gradient is added to the convolutions' without being expanded, and in their memory
        # format, which saves 2 % of a step on CPU.
        means = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        if self.partner is not None:
            means = (means + means[:, self.partner]) / 2
        gate: Tensor = self.gate(means)
        return gate if self.partner is None or gate.shape[2] == 1 else gate.repeat(1, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.compute_gates(x)
        # N convolutions, not one with N*K filters: on CPU the steps that follow are faster in contiguous memory
        # (benchmarks/step.py).
        if self.can_mix(x):
            maps, steps = [self.sum_mixed(x, gate)], self.order[1:]
        else:
            maps, steps = [branch(x) for branch in self.branches], self.order
        for step in steps:
            if step == "activation":
                maps = [self.activation(y) for y in maps]
            elif step == "sum":
                maps = [GatedSum.apply(gate, *maps)]
            elif step == "norm":
                maps = [norm(y) for norm, y in zip(self.norms, maps, strict=True)]
            else:
                maps = [max_pool(y) for y in maps]
        (y,) = maps
        return self.residuals(y)

    def can_mix(self, x: Tensor) -> bool:
        """Return whether `sum_mixed` is less work in training: at least as many pixels as input channels."""
        if not self.training or not 1 < len(self.mixed) < len(self.branches) or x.shape[2] * x.shape[3] < x.shape[1]:
            return False
        # A weight that is pruned or parametrised is computed, and only when the convolution is called.
        return all(isinstance(self.branches[index].weight, nn.Parameter) for index in self.mixed)

    def sum_mixed(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return the gated sum (B, K, H, W) of the branches, with one convolution in place of all that are 1x1.

        Its filters are the sum of theirs, weighted for each image by the gate.
        """
        others = [index for index in range(len(self.branches)) if index not in self.mixed]
        total = GatedSum.apply(gate[:, others], *(self.branches[index](x) for index in others))
        filters = torch.stack([self.branches[index].get_parameter("weight") for index in self.mixed]).flatten(1)
        matrices = (gate[:, self.mixed, 0] @ filters).view(-1, total.shape[1], x.shape[1])  # (B, K, C)
        maps, pixels = (y.permute(0, 2, 3, 1).flatten(1, 2) for y in (total, x))  # (B, H*W, K or C)
        return torch.baddbmm(maps, pixels, matrices.mT).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """``x + activation(norm(conv(x)))``, (B, K, H, W) to the same shape."""

    def __init__(self, conv: nn.Module, norm: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = conv, norm, activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.activation(self.norm(self.conv(x)))


def make_convolution(inputs: int, outputs: int, size: int, bias: bool, partner: Tensor | None) -> nn.Conv2d:
    if partner is None:
        return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
    return FlipConv2d(inputs, outputs, size, bias, partner)


@torch.no_grad()
def start_as_identity(weight: Tensor, partner: Tensor | None) -> None:
    """Set the first filters of a convolution to pass its channels on; of twins only one, as filters have twins too."""
    channels = torch.arange(weight.shape[1])
    passed = channels <= (channels if partner is None else partner)
    # Filter k passes on the k-th of these. Without indexing by a mask, which the meta device does not have.
    chosen = passed & (passed.cumsum(0) - 1 == torch.arange(len(weight))[:, None])  # (filters, channels)
    weight.masked_fill_(chosen.any(1)[:, None, None, None], 0)
    weight[:, :, weight.shape[2] // 2, weight.shape[2] // 2].masked_fill_(chosen, 1)


class GatedSum(torch.autograd.Function):
    """``a1*y1 + a2*y2 + ...`` for gates (B, N, 1 or K) and N maps (B, K, H, W), with few passes over memory.

    Forward uses fused multiply-adds. Backward computes the gates' gradients as dot products, where autograd would store
    each product and sum it.
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
            flat = gradient.permute(0, 2, 3, 1).flatten(1)  # (B, H*W*K), a view with channels last
            # Not a batched matrix product, which takes 15 times as long on a CPU in bfloat16.
            products = [torch.linalg.vecdot(flat, y.permute(0, 2, 3, 1).flatten(1))[:, None] for y in maps]
        else:
            products = [(gradient * y).sum((2, 3)) for y in maps]
        return torch.stack(products, 1).to(gate.dtype), *for_maps
