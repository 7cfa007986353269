"""The sources of images, by name. Each is a module of `lightning_cifar.sources`, imported when it is used."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from lightning_cifar.data.dataset import Dataset

SourceName = Literal["cifar10", "cifar100", "digits", "folder"]
MODULES: dict[SourceName, str] = {"cifar10": "cifar", "cifar100": "cifar", "digits": "digits", "folder": "folder"}


class Source(Protocol):
    """Interface of a source; ``options`` are the arguments of `CIFAR10DataModule`, ``root`` is its data directory."""

    def load(self, options: Mapping[str, Any], root: Path) -> Dataset:
        """Return the dataset, with images of ``image_size`` pixels."""

    def count_classes(self, options: Mapping[str, Any], root: Path) -> int:
        """Return the number of classes; reads no images."""


def find_source(name: SourceName) -> Source:
    """Import the module that reads a dataset, and return it."""
    return cast(Source, import_module(f"lightning_cifar.sources.{MODULES[name]}"))
