"""Networks compiled for training by ``torch.compile``."""

import os
import shlex
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_cifar.errors import InputError


class CompiledNetworks:
    """Networks that compile at the first batch of each image size; `InputError` without a C++ compiler.

    Batches shorter than the longest so far, such as an epoch's last, run eagerly: they are not worth a compilation.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        compiler = os.environ.get("CXX") or "g++"
        if shutil.which(shlex.split(compiler)[0]) is None:  # CXX may have arguments
            raise InputError(f"compile needs a C++ compiler, and {compiler} was not found: set CXX to one")
        self.eager = networks
        self.compiled = [torch.compile(network, dynamic=False) for network in networks]
        self.batch_size = 0

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Return each network's logits (B, num_classes)."""
        self.batch_size = max(self.batch_size, len(pixels))  # after a resume, an epoch's last batch may come first
        networks = self.compiled if len(pixels) == self.batch_size else self.eager
        return [network(pixels) for network in networks]
