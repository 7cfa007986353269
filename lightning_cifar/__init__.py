"""lightning-cifar: a five-block gated network on CIFAR-10 under PyTorch Lightning.

The public API is what `__all__` names. It is imported on first use, so that ``import lightning_cifar`` and short
commands do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_cifar.commands.cli import main
    from lightning_cifar.data.module import CIFAR10DataModule
    from lightning_cifar.errors import InputError
    from lightning_cifar.imports import trust
    from lightning_cifar.model.blocks import GatedBlock
    from lightning_cifar.model.network import Backbone, FiveBlockNet
    from lightning_cifar.run.checkpoints.last_checkpoint import LastCheckpoint
    from lightning_cifar.run.console.progress import Progress
    from lightning_cifar.run.figures.live_figure import LiveFigure
    from lightning_cifar.run.finetuning import fine_tune
    from lightning_cifar.run.records.throughput import Throughput
    from lightning_cifar.run.weights import load_pretrained
    from lightning_cifar.train.classifier import ImageClassifier

__all__ = [
    "Backbone",
    "CIFAR10DataModule",
    "FiveBlockNet",
    "GatedBlock",
    "ImageClassifier",
    "InputError",
    "LastCheckpoint",
    "LiveFigure",
    "Progress",
    "Throughput",
    "fine_tune",
    "load_pretrained",
    "main",
    "trust",
]

_HOMES = {
    "Backbone": "model.network",
    "CIFAR10DataModule": "data.module",
    "FiveBlockNet": "model.network",
    "GatedBlock": "model.blocks",
    "ImageClassifier": "train.classifier",
    "InputError": "errors",
    "LastCheckpoint": "run.checkpoints.last_checkpoint",
    "LiveFigure": "run.figures.live_figure",
    "Progress": "run.console.progress",
    "Throughput": "run.records.throughput",
    "fine_tune": "run.finetuning",
    "load_pretrained": "run.weights",
    "main": "commands.cli",
    "trust": "imports",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lightning-cifar")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
