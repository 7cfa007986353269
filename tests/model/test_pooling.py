"""2x2 max pooling: the versions for GPUs and for compiled networks have the values and gradients of torch's."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from lightning_cifar.model.pooling import KernelMaxPool, PointwiseMaxPool, max_pool

SHAPES = [(3, 8, 6, 10), (2, 24, 16, 16), (5, 7, 4, 4)]
DTYPES = [torch.float32, torch.bfloat16]


def draw_maps(shape, dtype, device="cpu"):
    """Return maps with many equal values and an infinity."""
    x = (3 * torch.randn(shape)).round().to(device, dtype).contiguous(memory_format=torch.channels_last)
    x[0, 1, 1, 0] = float("inf")
    return x


def assert_pools_like_torch(pool, x):
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    pooled, expected = pool(ours), F.max_pool2d(plain, 2)
    gradient = torch.randn_like(expected)
    pooled.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(pooled, expected)
    assert torch.equal(ours.grad, plain.grad)
    for tensor in (pooled, ours.grad):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 1] = float("nan")
    assert torch.equal(pool(x).isnan(), F.max_pool2d(x, 2).isnan())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pointwise_pool_equals_torch(shape, dtype):
    assert_pools_like_torch(PointwiseMaxPool.apply, draw_maps(shape, dtype))


INTERPRETED = """
import torch
from lightning_cifar.model.pooling import KernelMaxPool
from tests.model.test_pooling import DTYPES, SHAPES, assert_pools_like_torch, draw_maps
for dtype in DTYPES:
    for shape in SHAPES:
        assert_pools_like_torch(KernelMaxPool.apply, draw_maps(shape, dtype))
print("equal")
"""


@pytest.mark.slow
def test_kernels_equal_torch_in_tritons_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-c", INTERPRETED]
    root = __file__.rsplit("/tests/", 1)[0]
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (100, 192, 8, 8)])
def test_kernels_equal_torch_on_a_gpu(shape, dtype):
    x = draw_maps(shape, dtype, "cuda")
    assert type(max_pool(x.requires_grad_()).grad_fn).__name__ == KernelMaxPool._backward_cls.__name__
    assert_pools_like_torch(max_pool, x.detach())


@pytest.mark.gpu
def test_float64_is_pooled_by_torch():
    x = draw_maps(SHAPES[0], torch.float64, "cuda")
    x += 1e-12 * torch.rand_like(x)  # differences that float32 does not hold
    assert_pools_like_torch(max_pool, x)


@pytest.mark.gpu
def test_kernels_run_on_the_device_of_the_maps():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    assert_pools_like_torch(max_pool, draw_maps(SHAPES[0], torch.float32, "cuda:1"))
