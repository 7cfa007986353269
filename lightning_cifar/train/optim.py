"""Optimisers: those of torch, with one parameter group for each role, and Muon."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.data.steps import count_steps
from lightning_cifar.errors import InputError, check_name, reason
from lightning_cifar.model.blocks import GatedBlock
from lightning_cifar.model.ensemble import Ensemble

NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}  # of torch's classes; any other class has its own
UNSUITED = ("Optimizer", "LBFGS", "SparseAdam", "Muon")  # no optimiser; one group; sparse gradients; matrices only
FUSED_DEVICES = ("cpu", "cuda", "mps")
Groups = list[dict[str, Any]]  # of parameters, each with its options
ROLES = ("filters", "matrix", "gate", "norm", "head")


def build_optimizer(network: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Build the optimiser that hyper-parameters of `ImageClassifier` name, with one parameter group for each role.

    ``sgd`` and ``muon`` get ``momentum`` (Nesterov's); all that accept ``weight_decay`` get it.
    """
    rates = {role: options.get(f"{role}_rate") or options["learning_rate"] for role in ROLES}
    if not (groups := group_parameters(network, rates)):
        raise InputError("no parameter of the network is trainable: set requires_grad of some, or a lower freeze")
    name, args, weight_decay = options["optimizer"], dict(options["optimizer_args"] or {}), options["weight_decay"]
    kind = find_optimizer(name)
    if taken := {"params", "lr", "fused", "differentiable"} & {*args}:
        known = "parameters, fused steps, and rates by --model.learning_rate and so on"
        raise InputError(f"optimizer_args must not have {min(taken)}: the model sets {known}")
    if name in ("sgd", "muon"):
        args = {"momentum": options["momentum"]} | args
    if name == "sgd":
        args = {"nesterov": bool(args["momentum"])} | args
    if "weight_decay" in signature(kind).parameters:
        args = {"weight_decay": weight_decay} | args
    try:
        optimizer = kind(groups, **args)
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"optimizer {name} with {args or 'no arguments'}: {reason(error)}") from error
    fuse(optimizer)
    return optimizer


def find_optimizer(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return `Muon` or torch's class of this name; `InputError` if there is none."""
    known = {one: kind for one, kind in vars(torch.optim).items() if isinstance(kind, type) and one not in UNSUITED}
    known = {"muon": Muon, **{short: known[one] for short, one in NAMES.items()}, **known}
    yours = "yours by an ImageClassifier with your configure_optimizers, in Python"
    check_name(name, known, "optimizer", f"{', '.join(known)}; {yours}")
    return known[name]


def fuse(*optimizers: torch.optim.Optimizer) -> None:
    """Switch Adam and SGD of `build_optimizer` to torch's fused steps, of few launches, if their parameters have them.

    Not by the constructor's argument ``fused``, with which float16 training refuses to clip gradients.
    """
    for optimizer in (one for one in optimizers if isinstance(one, torch.optim.Adam | torch.optim.SGD)):
        for group in (one for one in optimizer.param_groups if "role" in one):
            device = group["params"][0].device.type
            group["fused"] = device in FUSED_DEVICES and all(map(torch.is_floating_point, group["params"]))
            if "capturable" in group:
                group["capturable"] = device == "cuda"
            for parameter in group["params"]:
                if "step" in (state := optimizer.state.get(parameter, {})):
                    state["step"] = state["step"].to(parameter.device)


def prepare_averages(trainer: Trainer, data: Any) -> None:
    """Let callbacks that average the weights copy integers and constants, whose mean would be rounded.

    Until they begin, they equal the weights wherever they are used; Lightning would evaluate and save untrained ones.
    `InputError` if one would never begin, by `count_steps` on ``data``.
    """
    for one in find_callbacks(trainer, WeightAveraging):
        if isinstance(one, EMAWeightAveraging) and one.update_starting_at_epoch is None:
            start, total = one.update_starting_at_step or 0, count_steps(trainer, data)
            if start >= total:
                raise InputError(f"update_starting_at_step {start:,}: training ends at step {total:,.0f}; lower it")
        if (average := one._average_model) is not None:
            if mean := average.avg_fn:
                average.avg_fn = partial(average_changes, mean)
            for name in ("on_validation_epoch_start", "on_save_checkpoint", "on_train_end"):  # set anew by each fit
                setattr(one, name, partial(copy_weights, average, getattr(type(one), name).__get__(one)))


def average_changes(mean: Callable[..., Tensor], old: Tensor, new: Tensor, count: Tensor) -> Tensor:
    return mean(old, new, count).where(old != new, new) if new.is_floating_point() or new.is_complex() else new


def copy_weights(average: AveragedModel, use: Callable[..., None], trainer: Trainer, module: Any, *args: Any) -> None:
    """Copy the weights to an average that has not begun, then call the hook that uses it."""
    if not average.n_averaged:
        average.update_parameters(module)  # the first one copies
        average.n_averaged.zero_()
    use(trainer, module, *args)


def group_parameters(network: nn.Module, rates: dict[str, float]) -> Groups:
    """Group the trainable parameters of a network or `Ensemble` by role, with the learning rate of each.

    ``filters`` are convolutions, ``gate`` the gates of a `GatedBlock`, ``head`` what is named ``classifier``, or else
    the last linear layer, ``matrix`` other weights, and ``norm`` the rest: batch norm, biases.
    """
    roles: dict[str, list[nn.Parameter]] = {role: [] for role in rates}
    heads = find_heads(network)
    gates = {id(one) for block in network.modules() if isinstance(block, GatedBlock) for one in block.gate.parameters()}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            role = "filters" if parameter.ndim == 4 else "matrix" if parameter.ndim > 1 else "norm"
            roles["gate" if id(parameter) in gates else "head" if name in heads else role].append(parameter)
    return [{"params": roles[role], "lr": rate, "role": role} for role, rate in rates.items() if roles[role]]


def find_heads(network: nn.Module) -> set[str]:
    """Return the names of the parameters of the classifiers: of the network, or of each member of an `Ensemble`."""
    if isinstance(network, Ensemble):
        return {f"members.{i}.{name}" for i, one in enumerate(network.members) for name in find_heads(one)}
    names = [name for name, _ in network.named_parameters()]
    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    found = ({name for name in names if name.startswith(f"{layer}.")} for layer in ("classifier", *layers[-1:]))
    return next(filter(None, found), set())


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum that orthogonalises the steps of ``filters`` (kellerjordan.github.io/posts/muon).

    Each convolution counts as a matrix (out, in * height * width). Before each step it is rescaled to Frobenius norm
    ``sqrt(out)``, as in cifar10-airbench, so that only the learning rate decides how far a step turns it.

    Args:
        groups: made by `group_parameters`; the other roles take plain Nesterov steps.
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
