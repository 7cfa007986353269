"""Muon, the optimiser of cifar10-airbench, with its Newton-Schulz iterations in few operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Groups = list[dict[str, Any]]  # of parameters, each with its options


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum that orthogonalises the steps of ``filters`` (kellerjordan.github.io/posts/muon).

    Each convolution counts as a matrix (out, in * height * width). Before each step it is rescaled to Frobenius norm
    ``sqrt(out)``, as in cifar10-airbench, so that only the learning rate decides how far a step turns it.

    Args:
        groups: made by `lightning_cifar.train.optim.group_parameters`; the other roles take plain Nesterov steps.
        momentum: of the other roles, in [0, 1).
        filter_momentum: of ``filters``, in [0, 1).
        weight_decay: L2 penalty of ``norm`` and ``head``, divided by the initial rate: with momentum m, a step at that
            rate shrinks them by ``weight_decay / (1 - m)``.
    """

    def __init__(
        self, groups: Groups, momentum: float = 0.85, filter_momentum: float = 0.6, weight_decay: float = 0
    ) -> None:
        for group in groups:
            group["momentum"] = filter_momentum if group["role"] == "filters" else momentum
            # Not on the gates: it would pull them towards 0, where a ReLU gate is dead.
            group["weight_decay"] = weight_decay / group["lr"] if group["role"] in ("norm", "head") else 0.0
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            buffers = [self.state[parameter]["momentum"] for parameter in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            steps = list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
            if group["role"] == "filters":
                norms = torch._foreach_add(torch._foreach_norm(parameters), 1e-30)  # filters may start at 0
                scales = torch._foreach_reciprocal(norms)
                torch._foreach_mul_(scales, [len(parameter) ** 0.5 for parameter in parameters])
                torch._foreach_mul_(parameters, scales)
                steps = orthogonalise(steps)
            torch._foreach_mul_(steps, group["lr"])
            torch._foreach_sub_(parameters, steps)
        return loss


def orthogonalise(filters: list[Tensor]) -> list[Tensor]:
    """Bring the singular values of filters (out, in, height, width), as matrices of ``out`` rows, close to 1."""
    # The order of the columns does not matter; this one is a view of channels-last filters.
    rows = [filter_.permute(0, 2, 3, 1) for filter_ in filters]
    matrices = newton_schulz([row.flatten(1) for row in rows])
    return [matrix.view(row.shape).permute(0, 3, 1, 2) for matrix, row in zip(matrices, rows, strict=True)]


def newton_schulz(matrices: list[Tensor], iterations: int = 3) -> list[Tensor]:
    """Move the singular values of matrices (rows, columns) into about [0.5, 1.5], for which bfloat16 is enough.

    This is Muon's quintic iteration, ``X <- (a + b*S + c*S*S) X`` with ``S = X X'``, whose coefficients trade accuracy
    for the steepest slope at 0. The polynomials are multiplied with each other before they are with X, since they are
    smaller: a third of the work for filters, which are much wider than high.
    """
    wide = [matrix.mT if len(matrix) > matrix.shape[1] else matrix for matrix in matrices]
    if wide[0].device.type != "cpu":
        results = iterate_padded(wide, iterations)
    elif "AVX512" in torch.backends.cpu.get_cpu_capability():
        results = iterate_by_height(wide, iterations)
    else:  # bfloat16 would be emulated, in 14 times the time
        results = iterate_by_height(wide, iterations, torch.float32)
    pairs = zip(matrices, results, strict=True)
    return [result.mT if len(matrix) > matrix.shape[1] else result for matrix, result in pairs]


def iterate_padded(matrices: list[Tensor], iterations: int) -> list[Tensor]:
    """Iterate in one stack, padded with zeros, which change no result: few launches."""
    rows, columns = max(map(len, matrices)), max(matrix.shape[1] for matrix in matrices)
    stack = torch.zeros(len(matrices), rows, columns, dtype=torch.bfloat16, device=matrices[0].device)
    for slot, matrix in zip(stack, matrices, strict=True):
        slot[: len(matrix), : matrix.shape[1]] = matrix
    stack /= torch.linalg.vector_norm(stack, dim=(1, 2), keepdim=True) + 1e-7  # upper bounds of the singular values
    stack = torch.bmm(multiply_quintics(torch.bmm(stack, stack.mT), iterations), stack).to(matrices[0].dtype)
    return [slot[: len(matrix), : matrix.shape[1]] for slot, matrix in zip(stack, matrices, strict=True)]


def iterate_by_height(matrices: list[Tensor], iterations: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Iterate in a stack for each height, without padding: least work."""
    results = [matrix.to(dtype) for matrix in matrices]
    norms = torch._foreach_norm(results)
    torch._foreach_add_(norms, 1e-7)
    results = list(torch._foreach_div(results, norms))
    for height in {len(matrix) for matrix in matrices}:
        indices = [index for index, matrix in enumerate(matrices) if len(matrix) == height]
        squares = torch.stack([results[index] @ results[index].mT for index in indices])
        for index, factor in zip(indices, multiply_quintics(squares, iterations), strict=True):
            results[index] = factor @ results[index]
    return [result.to(matrix.dtype) for matrix, result in zip(matrices, results, strict=True)]


def multiply_quintics(square: Tensor, iterations: int) -> Tensor:
    """Return the product of the polynomials ``a + b*S + c*S*S`` of all iterations; ``square`` (n, rows, rows) is S."""
    a, b, c = 3.4445, -4.7750, 2.0315
    identity = a * torch.eye(square.shape[1], dtype=square.dtype, device=square.device)
    polynomial = product = torch.baddbmm(identity + b * square, square, square, alpha=c)
    for _ in range(iterations - 1):
        # X X' of the new X; these matrices commute.
        square = torch.bmm(torch.bmm(polynomial, square), polynomial)
        polynomial = torch.baddbmm(identity + b * square, square, square, alpha=c)
        product = torch.bmm(polynomial, product)
    return product
