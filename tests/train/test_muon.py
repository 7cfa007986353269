"""Muon and Newton-Schulz iterations, compared with plain implementations."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_cifar import FiveBlockNet
from lightning_cifar.train.muon import Muon, iterate_by_height, iterate_padded, newton_schulz, orthogonalise
from lightning_cifar.train.optim import group_parameters

FAST = {"widths": (4, 8, 8, 8, 8), "order": ("pool", "norm", "activation", "sum"), "stem_kernel": 2, "hidden": 0}
RATES = {"filters": 0.2, "gate": 0.01, "norm": 0.1, "head": 0.05}


def newton_schulz_reference(matrix):
    """Muon's published iteration, on one matrix."""
    x = matrix / matrix.norm()
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize(("processor", "tolerance"), [("AVX512", 0.02), ("AVX2", 1e-5), ("DEFAULT", 1e-5)])
@pytest.mark.parametrize("shape", [(16, 72), (72, 16), (16, 16), (1, 9)])
def test_newton_schulz_equals_the_reference(shape, processor, tolerance, monkeypatch):
    """In float32 where the processor has no instructions for bfloat16."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    matrices = [torch.randn(shape), torch.randn(shape), torch.randn(16, 20)]  # the last shares their batch if as high
    for matrix, result in zip(matrices, newton_schulz(matrices), strict=True):
        torch.testing.assert_close(result.float(), newton_schulz_reference(matrix), atol=tolerance, rtol=tolerance)


@pytest.mark.slow
def test_newton_schulz_in_one_padded_stack_has_the_same_bits():
    """On the smaller filters of `fast94`."""
    widths = (24, 32, 64, 128)
    shapes = [(high, wide * size) for wide, high in pairwise(widths) for size in (9, 9, 1)]
    shapes += [(high, high * 9) for high in widths[2:]]
    matrices = [torch.randn(shape) for shape in shapes]
    pairs = zip(iterate_by_height(matrices, 3), iterate_padded(matrices, 3), strict=True)
    assert all(torch.equal(by_height, padded) for by_height, padded in pairs)


def muon_reference(weight, gradients, rate, momentum):
    """Muon's steps on one filter tensor."""
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        buffer = momentum * buffer + gradient
        step = (gradient + momentum * buffer).flatten(1)
        weight = weight * weight.shape[0] ** 0.5 / weight.norm()
        weight = weight - rate * newton_schulz_reference(step).view(weight.shape)
    return weight


def test_muon_equals_the_reference():
    """Filters against the reference; other weights against torch's SGD, with decay divided by the rate."""
    torch.manual_seed(0)
    network, copy = (FiveBlockNet(**FAST) for _ in range(2))
    copy.load_state_dict(network.state_dict())
    groups, copy_groups = (group_parameters(net, RATES) for net in (network, copy))
    muon = Muon(groups, momentum=0.85, filter_momentum=0.6, weight_decay=1e-3)
    decay = {"gate": 0, "norm": 1e-3, "head": 1e-3}
    plain = [
        {"params": g["params"], "lr": g["lr"], "weight_decay": decay[g["role"]] / g["lr"]} for g in copy_groups[1:]
    ]
    sgd = torch.optim.SGD(plain, momentum=0.85, nesterov=True)
    starts = [p.detach().clone() for p in groups[0]["params"]]
    history = [[] for _ in starts]
    for _ in range(3):
        for ours, reference in zip(groups, copy_groups, strict=True):
            for a, b in zip(ours["params"], reference["params"], strict=True):
                a.grad = b.grad = torch.randn_like(a)
        for gradients, parameter in zip(history, groups[0]["params"], strict=True):
            gradients.append(parameter.grad)
        muon.step()
        sgd.step()
    for start, gradients, parameter in zip(starts, history, groups[0]["params"], strict=True):
        # the iteration is in bfloat16
        torch.testing.assert_close(parameter.data, muon_reference(start, gradients, 0.2, 0.6), atol=5e-3, rtol=0)
    for ours, reference in zip(groups[1:], copy_groups[1:], strict=True):
        for a, b in zip(ours["params"], reference["params"], strict=True):
            torch.testing.assert_close(a.data, b.data)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (64, 3, 3, 3), (8, 32, 1, 1)])
def test_orthogonalise_keeps_singular_vectors_and_brings_values_close_to_1(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix.flatten(1), full_matrices=False)
    (result,) = orthogonalise([matrix])
    assert (result.shape, result.dtype) == (shape, matrix.dtype)
    in_singular_vectors = u.T @ result.flatten(1) @ v.T
    sizes = in_singular_vectors.diagonal()
    assert sizes.min() > 0.4
    assert sizes.max() < 1.6
    assert (in_singular_vectors - sizes.diag()).abs().max() < 0.05


def test_matrices_of_one_height_share_a_batch(monkeypatch):
    batches, baddbmm = [], torch.baddbmm
    monkeypatch.setattr(
        torch, "baddbmm", lambda *args, **kw: batches.append(tuple(args[1].shape)) or baddbmm(*args, **kw)
    )
    newton_schulz([torch.randn(shape) for shape in ((4, 36), (8, 36), (4, 18), (9, 4))], iterations=1)
    assert sorted(batches) == [(1, 8, 8), (3, 4, 4)]


def test_muon_takes_filters_of_zeros():
    """As some networks start; their first step is orthogonal."""
    filters = nn.Parameter(torch.zeros(4, 3, 3, 3))
    filters.grad = torch.randn(4, 3, 3, 3)
    Muon([{"params": [filters], "lr": 0.1, "role": "filters"}]).step()
    assert filters.isfinite().all()
    assert filters.abs().max() > 0
