"""Parameter groups, Muon and schedules: what turns gradients into steps."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adam", "sgd", "muon"]
Schedule = Literal["constant", "triangular"]


def parameter_groups(network: nn.Module, rates: dict[str, float]) -> list[dict[str, Any]]:
    """The trainable parameters by role: ``filters`` (convolutions of the blocks), ``gate``, ``norm``, ``head``.

    Biases of the convolutions and of the stem, shifts like batch norm's, go with ``norm``.

    Args:
        network: a `FiveBlockNet`, or an `Ensemble` of them.
        rates: the learning rate of each role.
    """
    roles: dict[str, list[nn.Parameter]] = {role: [] for role in rates}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if ".gate." in name:
            role = "gate"
        elif ".classifier." in f".{name}":
            role = "head"
        else:
            role = "filters" if parameter.ndim == 4 else "norm"
        roles[role].append(parameter)
    return [{"params": roles[role], "lr": rate, "role": role} for role, rate in rates.items() if roles[role]]


def optimizer_of(
    groups: list[dict[str, Any]], name: OptimizerName, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam, SGD with Nesterov momentum, or `Muon`, over groups of `parameter_groups`."""
    if name == "adam":
        return torch.optim.Adam(groups, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, nesterov=True, weight_decay=weight_decay)
    return Muon(groups, momentum=momentum, weight_decay=weight_decay)


class Muon(torch.optim.Optimizer):
    """Nesterov SGD whose steps on ``filters`` are orthogonalised (Muon, kellerjordan.github.io/posts/muon).

    A convolution counts as the matrix (out, in * height * width), each on its own; it is rescaled to Frobenius norm
    ``sqrt(out)`` before each step, as in cifar10-airbench, so that the rate alone says how far a step turns it.

    Args:
        groups: of `parameter_groups`; the others than ``filters`` take plain Nesterov steps.
        momentum: of the plain groups, in [0, 1).
        filter_momentum: of ``filters``, in [0, 1).
        weight_decay: share by which a step at the initial rate shrinks the parameters of ``norm`` and ``head``.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        momentum: float = 0.85,
        filter_momentum: float = 0.6,
        weight_decay: float = 0,
    ) -> None:
        for group in groups:
            matrices = group["role"] == "filters"
            group["momentum"] = filter_momentum if matrices else momentum
            # Not on the gates: it would pull them towards 0, where they are dead.
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
                scales = torch._foreach_reciprocal(torch._foreach_norm(parameters))
                torch._foreach_mul_(scales, [len(parameter) ** 0.5 for parameter in parameters])
                torch._foreach_mul_(parameters, scales)
                steps = orthogonalised(steps)
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])
        return loss


def orthogonalised(filters: list[Tensor]) -> list[Tensor]:
    """Each (out, in, height, width) as a matrix of ``out`` rows with its singular values near 1, by `newton_schulz`."""
    # The order of the columns does not matter; this one is a view of channels-last filters.
    rows = [filter_.permute(0, 2, 3, 1) for filter_ in filters]
    matrices = newton_schulz([matrix.flatten(1) for matrix in rows])
    return [
        matrix.view(row.shape).permute(0, 3, 1, 2).to(row.dtype) for matrix, row in zip(matrices, rows, strict=True)
    ]


def newton_schulz(matrices: list[Tensor], iterations: int = 3) -> list[Tensor]:
    """Moves the singular values of matrices (rows, columns) into about [0.5, 1.5]; the results are in bfloat16.

    ``X <- (a + b*S + c*S*S) X`` with ``S = X X'``: the quintic iteration of Muon, whose coefficients trade exactness
    for the steepest slope at 0. The polynomials are multiplied before X is, on the side where they are smaller: for
    filters, which are much wider than high, it is a third of the work. Those of one size are done in a batch, since
    what counts on a GPU is how many operations are started.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = [(matrix.mT if len(matrix) > matrix.shape[1] else matrix).bfloat16() for matrix in matrices]
    norms = torch._foreach_norm(wide)  # no singular value is above it
    torch._foreach_add_(norms, 1e-7)
    wide = list(torch._foreach_div(wide, norms))
    for size in {len(matrix) for matrix in wide}:
        places = [place for place, matrix in enumerate(wide) if len(matrix) == size]
        square = torch.stack([wide[place] @ wide[place].mT for place in places])
        identity = a * torch.eye(size, dtype=square.dtype, device=square.device)
        polynomial = product = torch.baddbmm(identity + b * square, square, square, alpha=c)
        for _ in range(iterations - 1):
            # Of the new X, times its transpose: all of them commute.
            square = torch.bmm(torch.bmm(polynomial, square), polynomial)
            polynomial = torch.baddbmm(identity + b * square, square, square, alpha=c)
            product = torch.bmm(polynomial, product)
        for place, factor in zip(places, product, strict=True):
            wide[place] = factor @ wide[place]
    return [
        result.mT if len(matrix) > matrix.shape[1] else result for matrix, result in zip(matrices, wide, strict=True)
    ]


def triangular(total: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at each step: linear from 0 to 1 over the first share ``warmup``, then to 0.

    The step that follows the last would have 0; the first has, with a warmup, 1 over its length.
    """
    rise = warmup * total

    def factor(step: int) -> float:
        if step + 1 < rise:
            return (step + 1) / rise
        return min(1.0, max(0.0, (total - step) / max(1.0, total - rise)))

    return factor
