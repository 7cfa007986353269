"""CIFAR10DataModule: a source, its splits, their loaders, and augmentation after the transfer to the device."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from lightning_cifar.data import augment
from lightning_cifar.data.cifar import load_cifar
from lightning_cifar.data.dataset import Dataset, ImageSet, LabelledImages, SourceName, stratified_split
from lightning_cifar.data.digits import load_digits
from lightning_cifar.data.folder import available_cores, folder_classes, load_folder
from lightning_cifar.data.images import SIZE
from lightning_cifar.data.loader import BatchLoader, home, seeded
from lightning_cifar.data.streaming import FileLoader, ImageFiles, file_loader, list_folder
from lightning_cifar.distributed import Shard
from lightning_cifar.errors import InputError, check_choice

HeldOut = Literal["val", "test"]
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}
STATISTICS_SAMPLE = 5000  # images: the mean of CIFAR-10 is met to about 0.003


class CIFAR10DataModule(LightningDataModule):
    """Loaders of uint8 batches for Lightning; everything is read once, and kept on the device that trains.

    After `setup`, ``train``, ``val`` and ``test`` are the sets, with ``images`` uint8 (N, 3, 32, 32), ``labels`` int64
    (N,), a length, slices, and ``sample(n)``, n of them, evenly spaced; ``mean`` and ``std`` are the training pixels'.

    Args:
        dataset: ``cifar10`` or ``cifar100`` (downloaded at first use), ``folder`` (images as ``train/<class>/*``,
            ``test/<class>/*``, optionally ``val/<class>/*``) or ``digits`` (ships with scikit-learn).
        root: the data directory; default: the environment variable LIGHTNING_CIFAR_DATA, else ``data``.
        url: a mirror of the CIFAR archive, or several by commas.
        archive: a local CIFAR archive (``.tar.gz``).
        batch_size: images in a training step, of all processes together.
        eval_batch_size: images in a step of evaluation, of each process; changes speed and memory, not results.
        held_out: what is evaluated while training. ``val``: ``val_size`` training images kept back; ``test``: the test
            set, with all images trained on, as the report did. Nothing may then be selected by it.
        val_size: images of the stratified validation split; None: 5,000, of fewer than 50,000 a tenth. Unused where
            the folder has a ``val`` or ``held_out`` is ``test``.
        split_seed: which images are kept back; apart from the run's seed, so that runs can be compared.
        flip: mirror training images left to right, each with probability 1/2; ``alternating``: a random half of them in
            the first epoch, the others in the next, and so on in turn (github.com/KellerJordan/cifar10-airbench).
        crop_padding: cut training images at random from their reflect-padded selves; 0 to 31 pixels, 0: not at all.
        cutout: side of a square painted over at a random place of each training image, in the colour of the mean
            (arXiv 1708.04552); 0 to 32 pixels, 0: none.
        small_epochs: so many epochs, the first, train on images scaled down to ``small_size`` (progressive resizing,
            as in fast.ai's DAWNBench entries): cheaper steps for what is coarse anyway; at least 0.
        small_size: their height and width, 8 to 32 pixels.
        drop_last: leave out the last training batch of an epoch where it is not full.
        in_memory: False reads the files of a ``folder`` when they are due, for sets larger than memory; ``mean`` and
            ``std`` are then those of 5,000 images, evenly spaced over the classes.
        num_workers: processes that do so, 0: the one that trains; None: one for each core.
    """

    def __init__(
        self,
        dataset: SourceName = "cifar10",
        root: str | None = None,
        url: str | None = None,
        archive: str | None = None,
        batch_size: int = 512,
        eval_batch_size: int = 1000,
        held_out: HeldOut = "val",
        val_size: int | None = None,
        split_seed: int = 0,
        flip: bool | Literal["alternating"] = True,
        crop_padding: int = 4,
        cutout: int = 0,
        small_epochs: int = 0,
        small_size: int = 24,
        drop_last: bool = False,
        in_memory: bool = True,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("dataset", dataset, SourceName)
        check_choice("held_out", held_out, HeldOut)
        if flip not in (True, False, "alternating"):
            raise InputError(f"flip must be true, false or alternating, got {flip!r}")
        for name, value, least, most in (
            ("crop_padding", crop_padding, 0, SIZE - 1),
            ("cutout", cutout, 0, SIZE),
            ("small_size", small_size, 8, SIZE),
        ):
            if not least <= value <= most:
                raise InputError(f"{name} must be in [{least}, {most}], got {value}")
        for name, value, least in (
            ("small_epochs", small_epochs, 0),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers or 0, 0),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        if not in_memory and dataset != "folder":
            raise InputError(f"in_memory can be false for the dataset 'folder' alone, got {dataset!r}")
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
        measured = self.train if isinstance(self.train, ImageSet) else self.train.sample(STATISTICS_SAMPLE)
        self.mean, self.std = channel_statistics(measured.images)

    def read(self) -> Dataset:
        if self.source is None:
            name, archive = self.hparams["dataset"], self.hparams["archive"]
            if name == "digits":
                self.source = load_digits()
            elif name == "folder":
                self.source = load_folder(self.root) if self.hparams["in_memory"] else list_folder(self.root)
            else:
                self.source = load_cifar(name, self.root, self.hparams["url"], Path(archive) if archive else None)
        return self.source

    def train_dataloader(self) -> BatchLoader | FileLoader:
        seed, alternating = torch.initial_seed(), self.hparams["flip"] == "alternating"
        # What does not change from step to step is made once; the flips of alternating epochs before the first of them.
        self.first_flips = augment.draw_flips(len(self.train), seeded(seed, epoch=-1)).to(self.device)
        self.fill = torch.tensor([round(255 * mean) for mean in self.mean], dtype=torch.uint8, device=self.device)
        drop_last = self.hparams["drop_last"]
        return self.loader(
            self.train,
            self.hparams["batch_size"],
            seed=seed,
            drop_last=drop_last,
            positions=alternating,
            shard=self.shard,
        )

    def val_dataloader(self) -> BatchLoader | FileLoader:
        return self.loader(self.val[self.shard.of_set(len(self.val))], self.hparams["eval_batch_size"])

    def test_dataloader(self) -> BatchLoader | FileLoader:
        return self.loader(self.test[self.shard.of_set(len(self.test))], self.hparams["eval_batch_size"])

    def predict_dataloader(self) -> BatchLoader | FileLoader:
        return self.test_dataloader()

    def loader(self, data: LabelledImages, batch_size: int, **options: Any) -> BatchLoader | FileLoader:
        if isinstance(data, ImageSet):
            return BatchLoader(data, batch_size, device=home(data, self.device), **options)
        if self.shard.count > 1 and self.trainer._accelerator_connector.use_distributed_sampler:  # type: ignore[union-attr]
            raise InputError(
                "with in_memory false, the Trainer takes use_distributed_sampler=False: loaders share out here"
            )
        pinned = self.device.type == "cuda"  # copied to it in the background
        workers = self.hparams["num_workers"]
        workers = available_cores() if workers is None else workers
        assert isinstance(data, ImageFiles)
        return file_loader(data, batch_size, num_workers=workers, pin_memory=pinned, **options)

    @property
    def shard(self) -> Shard:
        """What this process has of each batch and of each set that is evaluated; without a Trainer, all."""
        return Shard() if self.trainer is None else Shard(self.trainer.global_rank, self.trainer.world_size)

    @property
    def device(self) -> torch.device:
        """Where training runs; without a Trainer, the CPU."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augments training batches, whole, on the device they are on."""
        images, labels, *positions = batch
        if self.trainer is not None and self.trainer.training:
            images = self.augmented(images, self.trainer.current_epoch, *positions)
        return images, labels

    def augmented(self, images: Tensor, epoch: int, positions: Tensor | None = None) -> Tensor:
        """Flip, crop and cutout by draws from torch's global generator; alternating flips by epoch and position.

        The first ``small_epochs`` are scaled down then.
        """
        batch, padding, shard = len(images), self.hparams["crop_padding"], self.shard
        everyone = batch * shard.count
        flips, offsets = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, 2, dtype=torch.int64)
        if positions is not None:
            flips = self.first_flips[positions] ^ (epoch % 2 == 1)
        elif self.hparams["flip"]:
            flips = shard.of_draws(augment.draw_flips(everyone))
        if padding:
            offsets = shard.of_draws(augment.draw_offsets(everyone, padding))
        if self.hparams["flip"] or padding:
            images = augment.flip_crop(images, flips, offsets, padding)
        if size := self.hparams["cutout"]:
            centres = shard.of_draws(augment.draw_centres(everyone, SIZE, SIZE))
            images = augment.cutout(images, centres, size, self.fill)
        if epoch < self.hparams["small_epochs"]:
            images = resize(images, [self.hparams["small_size"]] * 2)  # bilinear, antialiased
        return images


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of [0, 1], of uint8 images (N, C, H, W)."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    share = counts / counts.sum(1, keepdim=True).double()  # (C, 256): exact, where sums of squares lose digits
    mean = share @ levels
    return mean.tolist(), (share * (levels - mean[:, None]).square()).sum(1).sqrt().tolist()
