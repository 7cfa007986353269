"""Batch norm and dropout that treat the shards of all processes as one batch while they train."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.distributed import find_shard


class Sum(torch.autograd.Function):
    """Sum over all processes. The loss of each process depends on it, so its gradient is summed over them too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return Sum.forward(ctx, *gradients)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of the global batch. torch's SyncBatchNorm does the same, but only on GPUs."""

    def forward(self, x: Tensor) -> Tensor:  # (B, K, H, W) -> the same
        if not self.training or (count := find_shard().count) == 1:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        # Centred before they are squared: sums of squares would lose digits.
        mean = Sum.apply(values.mean((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = Sum.apply(centred.square().mean((0, 2, 3))) / count
        with torch.no_grad():
            size, batches = count * x.numel() / x.shape[1], self.get_buffer("num_batches_tracked").add_(1)
            weight = 1 / batches.item() if self.momentum is None else self.momentum  # None: mean of all batches
            self.get_buffer("running_mean").lerp_(mean, weight)
            self.get_buffer("running_var").lerp_(variance * (size / (size - 1)), weight)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)


class Dropout(nn.Dropout):
    """Dropout by this process's rows of a mask that is drawn for the global batch."""

    def forward(self, x: Tensor) -> Tensor:
        shard = find_shard()
        if not self.training or shard.count == 1:
            return super().forward(x)
        return x * F.dropout(x.new_ones(shard.count, *x.shape), self.p)[shard.rank]
