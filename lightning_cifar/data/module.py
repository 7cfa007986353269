"""CIFAR10DataModule: a source, its splits, their loaders, and augmentation after the transfer to the device."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from lightning_cifar.data import augment
from lightning_cifar.data.folder import folder_classes, load_folder
from lightning_cifar.data.loader import BatchLoader
from lightning_cifar.data.sources import Dataset, ImageSet, SourceName, load_cifar, load_digits, stratified_split
from lightning_cifar.errors import InputError

NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}


class CIFAR10DataModule(LightningDataModule):
    """Loaders of uint8 batches for Lightning; everything is read into memory once.

    Args:
        dataset: ``cifar10`` or ``cifar100`` (downloaded at first use), ``folder`` (images as ``train/<class>/*``,
            ``test/<class>/*``, optionally ``val/<class>/*``) or ``digits`` (ships with scikit-learn).
        root: the data directory; default: the environment variable LIGHTNING_CIFAR_DATA, else ``data``.
        url: a mirror of the CIFAR archive.
        archive: a local CIFAR archive (``.tar.gz``).
        batch_size: images in a training step.
        eval_batch_size: images in a step of evaluation; changes speed and memory, not results.
        held_out: what is evaluated while training. ``val``: ``val_size`` training images kept back; ``test``: the test
            set, with all images trained on, as the report did. Nothing may then be selected by it.
        val_size: images of the stratified validation split; None: 5,000, of fewer than 50,000 a tenth. Unused where
            the folder has a ``val`` or ``held_out`` is ``test``.
        split_seed: which images are kept back; apart from the run's seed, so that runs can be compared.
        flip: mirror training images left to right, each with probability 1/2.
        crop_padding: cut training images at random from their reflect-padded selves; 0 to 31 pixels, 0: not at all.
    """

    def __init__(
        self,
        dataset: SourceName = "cifar10",
        root: str | None = None,
        url: str | None = None,
        archive: str | None = None,
        batch_size: int = 512,
        eval_batch_size: int = 1000,
        held_out: Literal["val", "test"] = "val",
        val_size: int | None = None,
        split_seed: int = 0,
        flip: bool = True,
        crop_padding: int = 4,
    ) -> None:
        super().__init__()
        if not 0 <= crop_padding < 32:
            raise InputError(f"crop_padding must be in [0, 31], got {crop_padding}")
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise InputError(f"{name} must be at least 1, got {size}")
        self.save_hyperparameters()
        self.root = Path(root or os.environ.get("LIGHTNING_CIFAR_DATA") or "data")
        self.source: Dataset | None = None

    @property
    def num_classes(self) -> int:
        """Known before anything is read: for a folder, by listing it."""
        return NUM_CLASSES.get(self.hparams["dataset"]) or len(folder_classes(self.root))

    @property
    def dataset(self) -> Dataset:
        """What was read.

        Raises:
            RuntimeError: before `setup`.
        """
        if self.source is None:
            raise RuntimeError("call setup() first: nothing has been read yet")
        return self.source

    def prepare_data(self) -> None:
        """Downloads or decodes where need be; of several processes, Lightning calls it in one."""
        self.read()

    def setup(self, stage: str | None = None) -> None:
        """Reads the source, makes the splits and measures ``mean`` and ``std`` of the training pixels, in [0, 1]."""
        source = self.read()
        if hasattr(self, "train"):
            return
        self.train, self.test = source.train, source.test
        if self.hparams["held_out"] == "test":
            self.val = source.test
        elif source.val is not None:
            self.val = source.val
        else:
            val_size = self.hparams["val_size"]
            if val_size is None:
                val_size = min(5000, max(1, len(source.train) // 10))
            if not 1 <= val_size < len(source.train):
                raise InputError(f"--data.val_size must be between 1 and {len(source.train) - 1} here, got {val_size}")
            rest, held_out = stratified_split(source.train.labels, val_size, self.hparams["split_seed"])
            self.train, self.val = source.train[rest], source.train[held_out]
        self.mean, self.std = channel_statistics(self.train.images)

    def read(self) -> Dataset:
        if self.source is None:
            name, archive = self.hparams["dataset"], self.hparams["archive"]
            if name == "digits":
                self.source = load_digits()
            elif name == "folder":
                self.source = load_folder(self.root)
            else:
                self.source = load_cifar(name, self.root, self.hparams["url"], Path(archive) if archive else None)
        return self.source

    def train_dataloader(self) -> BatchLoader:
        return BatchLoader(self.train, self.hparams["batch_size"], seed=torch.initial_seed())

    def val_dataloader(self) -> BatchLoader:
        return self.eval_loader(self.val)

    def test_dataloader(self) -> BatchLoader:
        return self.eval_loader(self.test)

    def predict_dataloader(self) -> BatchLoader:
        return self.eval_loader(self.test)

    def eval_loader(self, data: ImageSet) -> BatchLoader:
        return BatchLoader(data, self.hparams["eval_batch_size"])

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augments training batches, whole, on the device they are on."""
        images, labels = batch
        if self.trainer is not None and self.trainer.training:
            if self.hparams["flip"]:
                images = augment.flip(images, augment.draw_flips(len(images)))
            if padding := self.hparams["crop_padding"]:
                images = augment.crop(images, augment.draw_offsets(len(images), padding), padding)
        return images, labels


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of [0, 1], of uint8 images (N, C, H, W)."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    share = counts / counts.sum(1, keepdim=True).double()  # (C, 256): exact, where sums of squares lose digits
    mean = share @ levels
    return mean.tolist(), (share * (levels - mean[:, None]).square()).sum(1).sqrt().tolist()
