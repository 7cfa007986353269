"""Normalisation of images by the mean and standard deviation of each channel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_cifar.data.augment import check_images, normalise
from lightning_cifar.errors import InputError, check_range

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
MIN_STD = 1e-6  # the standard deviation of a constant channel is 0


class Normalisation(nn.Module):
    """Map images (B, C, H, W), uint8 or floats in [0, 1], to floats of mean 0 and standard deviation 1, channels last.

    ``mean`` and ``std`` have one value for each channel, for pixels in [0, 1]; None: CIFAR-10's. The state dict lacks
    them: they are hyper-parameters.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int = 3) -> None:
        super().__init__()
        mean, std = mean or CIFAR10_MEAN, std or CIFAR10_STD
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise InputError(f"{name} must have one value for each of {channels} channels, got {list(values)}")
            for value in values:
                check_range(name, value, "[0, 1]")  # those of pixels from 0 to 255 make nearly equal images
            self.register_buffer(name, torch.empty(channels), persistent=False)
        self.set(mean, std)

    def set(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Normalise by these values from now on."""
        self.mean.copy_(torch.tensor(mean or CIFAR10_MEAN))
        self.std.copy_(torch.tensor(std or CIFAR10_STD)).clamp_(min=MIN_STD)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, len(self.mean))
        return normalise(images, self.mean, self.std)
