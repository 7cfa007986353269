"""Networks compiled for training by ``torch.compile``."""

import os
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_cifar.errors import InputError
from lightning_cifar.model.network import FiveBlockNet


class CompiledNetworks:
    """Networks that are compiled when a batch of a new image size arrives; `InputError` without a C++ compiler.

    A smaller last batch is not worth compiling for: the networks run it eagerly.
    """

    def __init__(self, networks: Sequence[FiveBlockNet]) -> None:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise InputError(f"compile needs a C++ compiler, and {compiler} was not found: set CXX to one")
        self.eager = networks
        self.compiled = [torch.compile(network.forward, dynamic=False) for network in networks]
        self.batch_size = 0

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Return each network's logits (B, num_classes)."""
        self.batch_size = self.batch_size or len(pixels)
        networks = self.compiled if len(pixels) == self.batch_size else [network.forward for network in self.eager]
        return [forward(pixels) for forward in networks]
