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

    A convolution counts as the matrix (out, in * height * width), each on its own, those of one shape in a batch; it is
    rescaled to Frobenius norm ``sqrt(out)`` before each step, as in cifar10-airbench, so that the rate alone says how
    far a step turns it.

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
                norms = torch._foreach_norm(parameters)
                torch._foreach_mul_(
                    parameters, [len(p) ** 0.5 / norm for p, norm in zip(parameters, norms, strict=True)]
                )
                steps = orthogonalised(steps)
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])
        return loss


def orthogonalised(filters: list[Tensor]) -> list[Tensor]:
    """Each (out, in, height, width) as a matrix of ``out`` rows with its singular values near 1, by `newton_schulz`.

    Those of one shape are done in a batch.
    """
    result = list(filters)
    for shape in {filter_.shape for filter_ in filters}:
        places = [place for place, filter_ in enumerate(filters) if filter_.shape == shape]
        # The order of the columns does not matter; this one is a view of channels-last filters.
        rows = torch.stack([filters[place].permute(0, 2, 3, 1) for place in places])
        matrices = newton_schulz(rows.flatten(2)).view(rows.shape).permute(0, 1, 4, 2, 3).to(rows.dtype)
        for place, matrix in zip(places, matrices, strict=True):
            result[place] = matrix
    return result


def newton_schulz(matrices: Tensor, iterations: int = 3) -> Tensor:
    """Moves the singular values of matrices (N, rows, columns) into about [0.5, 1.5]; the result is in bfloat16.

    ``X <- (a + b*S + c*S*S) X`` with ``S = X X'``: the quintic iteration of Muon, whose coefficients trade exactness
    for the steepest slope at 0. The polynomials are multiplied before X is, on the side where they are smaller: for
    filters, which are much wider than high, it is a third of the work.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value above 1
    wide = x.mT if x.shape[-2] > x.shape[-1] else x
    square = wide @ wide.mT
    identity = a * torch.eye(len(square[0]), dtype=x.dtype, device=x.device)
    polynomial = product = torch.baddbmm(identity + b * square, square, square, alpha=c)
    for _ in range(iterations - 1):
        square = polynomial @ square @ polynomial  # the new X times its transpose: all of them commute
        polynomial = torch.baddbmm(identity + b * square, square, square, alpha=c)
        product = polynomial @ product
    wide = product @ wide
    return wide.mT if x.shape[-2] > x.shape[-1] else wide


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
