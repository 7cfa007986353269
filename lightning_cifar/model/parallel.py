"""Layers that see the batch of all processes while they train: batch norm and dropout."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifar.distributed import current


class Sum(torch.autograd.Function):
    """Over all processes. Each of their losses depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class BatchNorm(nn.BatchNorm2d):
    """torch's, by the statistics of all processes' images; torch's SyncBatchNorm does the same, but on GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:  # (B, K, H, W) -> the same
        if not self.training or (count := current().count) == 1:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        # Centred before they are squared: sums of squares would lose digits.
        mean = Sum.apply(values.mean((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = Sum.apply(centred.square().mean((0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            size = count * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (size / (size - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)


class Dropout(nn.Dropout):
    """torch's, by a mask that is drawn for the batch of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        shard = current()
        if not self.training or shard.count == 1:
            return super().forward(x)
        everyone = torch.ones(len(x) * shard.count, *x.shape[1:], dtype=x.dtype, device=x.device)
        return x * shard.of_draws(F.dropout(everyone, self.p))
