"""The optimiser: Muon or one of torch, with one parameter group for each role."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import nn

from lightning_cifar.errors import InputError, check_name, reason
from lightning_cifar.model.blocks import GatedBlock
from lightning_cifar.model.ensemble import Ensemble
from lightning_cifar.train.muon import Groups, Muon

NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}  # of torch's classes; any other class has its own
UNSUITED = ("Optimizer", "LBFGS", "SparseAdam", "Muon")  # no optimiser; one group; sparse gradients; matrices only
FUSED_DEVICES = ("cpu", "cuda", "mps")
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
        known = "parameters, fused steps, and rates by learning_rate and so on"
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
