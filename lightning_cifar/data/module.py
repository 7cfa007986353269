"""Data module: a dataset, its splits, their loaders, and augmentation after the transfer to the device."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from lightning_cifar.data import augment
from lightning_cifar.data.cifar import load_cifar
from lightning_cifar.data.dataset import (
    Dataset,
    ImageSet,
    LabelledImages,
    SourceName,
    measure_channels,
    stratified_split,
)
from lightning_cifar.data.digits import load_digits
from lightning_cifar.data.folder import count_cores, list_classes, load_folder
from lightning_cifar.data.images import SIZE
from lightning_cifar.data.loader import BatchLoader, choose_device, make_generator
from lightning_cifar.data.sizes import check_sizes, find_size
from lightning_cifar.data.streaming import FileLoader, ImageFiles, list_folder, make_file_loader
from lightning_cifar.distributed import Shard
from lightning_cifar.errors import InputError, check_choice, check_range
from lightning_cifar.values import to_plain

HeldOut = Literal["val", "test"]
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}
STATISTICS_SAMPLE = 5000  # images: gives the mean of CIFAR-10 to about 0.003


class CIFAR10DataModule(LightningDataModule):
    """Lightning data module of uint8 batches. The data is read once and, if it fits, stored on the training device.

    After `setup`, ``train``, ``val`` and ``test`` hold ``images`` uint8 (N, 3, 32, 32) and ``labels`` int64 (N,);
    they can be sliced, and ``sample(n)`` returns n evenly spaced images. ``mean`` and ``std`` are the statistics of the
    training pixels in each channel.

    Args:
        dataset: ``cifar10`` or ``cifar100`` (downloaded at first use), ``folder`` (images in ``train/<class>/*``,
            ``test/<class>/*`` and optionally ``val/<class>/*``) or ``digits`` (ships with scikit-learn).
        root: data directory; default: the environment variable LIGHTNING_CIFAR_DATA, or ``data``.
        url: a mirror of the CIFAR archive, or several, separated by commas.
        archive: a local CIFAR archive (``.tar.gz``).
        batch_size: global batch size of training: images per step over all processes.
        eval_batch_size: images per evaluation step in each process; affects speed and memory, not results.
        held_out: what is evaluated during training. ``val``: ``val_size`` held-out training images. ``test``: the test
            set, while all training images are used, as in the report; select nothing by it.
        val_size: size of the stratified validation split; default: a tenth of the training images, at most 5,000.
            Unused if the folder has a ``val`` or ``held_out`` is ``test``.
        split_seed: seed of the validation split; independent of the run's seed, so that runs can be compared.
        flip: mirror each training image with probability 1/2. ``alternating``: mirror a random half of the images in
            the first epoch, the other half in the next, and so on (github.com/KellerJordan/cifar10-airbench).
        crop_padding: random crops of training images after reflection padding by 0 to 31 pixels; 0: no crops.
        cutout: side of a square at a random position of each training image that is filled with the mean colour
            (arXiv 1708.04552); 0 to 32 pixels, 0: none.
        sizes: height and width of training images, 8 to 32 pixels; several are used one after the other, since smaller
            images make cheaper steps (progressive resizing).
        size_shares: relative number of steps at each of several ``sizes``, above 0; default: equal shares.
        drop_last: leave out the last training batch of an epoch if it is not full.
        in_memory: False decodes the files of a ``folder`` when they are due, for sets larger than memory; ``mean`` and
            ``std`` are then those of 5,000 evenly spaced images.
        num_workers: number of processes that decode them, 0: the training process; default: one per core.
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
        sizes: Sequence[int] = (SIZE,),
        size_shares: Sequence[float] | None = None,
        drop_last: bool = False,
        in_memory: bool = True,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("dataset", dataset, SourceName)
        check_choice("held_out", held_out, HeldOut)
        if flip not in (True, False, "alternating"):
            raise InputError(f"flip must be true, false or alternating, got {flip!r}")
        check_range("crop_padding", crop_padding, f"[0, {SIZE - 1}]")
        check_range("cutout", cutout, f"[0, {SIZE}]")
        sizes, size_shares = list(sizes), None if size_shares is None else list(size_shares)
        check_sizes(sizes, size_shares)
        check_range("batch_size", batch_size, "[1, inf)")
        check_range("eval_batch_size", eval_batch_size, "[1, inf)")
        check_range("num_workers", num_workers or 0, "[0, inf)")
        if not in_memory and dataset != "folder":
            raise InputError(f"in_memory=False needs dataset='folder', got {dataset!r}")
        self.save_hyperparameters()
        self.hparams.update(to_plain(dict(self.hparams)))
        self.root = Path(os.path.expanduser(root or os.environ.get("LIGHTNING_CIFAR_DATA") or "data"))
        self.source: Dataset | None = None
        self.augment: Callable[[Tensor, Tensor], Tensor] = self.augment_batch  # `start_replay` replaces it
        # For each training image: mirrored, top and left of the crop, row and column of the cutout. Always this memory.
        self.draws = torch.empty(0, 5, dtype=torch.uint8)

    @property
    def num_classes(self) -> int:
        """Number of classes; available before `setup`, for a folder by listing it."""
        return NUM_CLASSES.get(self.hparams["dataset"]) or len(list_classes(self.root))

    @property
    def dataset(self) -> Dataset:
        """The dataset as it was read, before the split.

        Raises:
            RuntimeError: before `setup`.
        """
        if self.source is None:
            raise RuntimeError("call setup() first: no data has been read")
        return self.source

    def prepare_data(self) -> None:
        """Download or decode if necessary. Lightning calls this in one process."""
        self.read()

    def setup(self, stage: str | None = None) -> None:
        """Read the dataset, split it and measure ``mean`` and ``std`` of the training pixels, in units of [0, 1]."""
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
            check_range("val_size", val_size, f"[1, {len(source.train) - 1}]")
            rest, held_out = stratified_split(source.train.labels, val_size, self.hparams["split_seed"])
            self.train, self.val = source.train[rest], source.train[held_out]
            if empty := [name for index, name in enumerate(source.class_names) if index not in self.train.labels]:
                print(f"no training image is left of {', '.join(empty)}: add images, or a folder val", flush=True)
        measured = self.train if isinstance(self.train, ImageSet) else self.train.sample(STATISTICS_SAMPLE)
        self.mean, self.std = measure_channels(measured.images)

    def read(self) -> Dataset:
        """Return the dataset; only the first call reads it."""
        if self.source is None:
            name, url, archive = (self.hparams[one] for one in ("dataset", "url", "archive"))
            if name == "digits":
                self.source = load_digits()
            elif name == "folder":
                self.source = load_folder(self.root) if self.hparams["in_memory"] else list_folder(self.root)
            else:
                self.source = load_cifar(name, self.root, url, archive and Path(os.path.expanduser(archive)))
        return self.source

    def train_dataloader(self) -> BatchLoader | FileLoader:
        if len(self.draws) != len(self.train) or self.draws.device != self.device:
            self.draws = self.draws.new_empty(len(self.train), 5, device=self.device)
            self.fill = torch.tensor([round(255 * mean) for mean in self.mean], dtype=torch.uint8, device=self.device)
        self.seed = torch.initial_seed()
        self.draw_epoch(0 if self.trainer is None else self.trainer.current_epoch)
        options = {"seed": self.seed, "drop_last": self.hparams["drop_last"], "shard": self.shard}
        options["positions"] = self.trainer is not None  # for `on_after_batch_transfer`, which a Trainer calls
        loader = self.make_loader(self.train, self.hparams["batch_size"], **options)
        loader.sampler.fixed = getattr(self.trainer, "overfit_batches", 0) > 0  # type: ignore[union-attr]  # an `Order`
        return loader

    def val_dataloader(self) -> BatchLoader | FileLoader:
        return self.make_loader(self.val[self.shard.of_set(len(self.val))], self.hparams["eval_batch_size"])

    def test_dataloader(self) -> BatchLoader | FileLoader:
        return self.make_loader(self.test[self.shard.of_set(len(self.test))], self.hparams["eval_batch_size"])

    def predict_dataloader(self) -> BatchLoader | FileLoader:
        return self.test_dataloader()

    def make_loader(self, data: LabelledImages, batch_size: int, **options: Any) -> BatchLoader | FileLoader:
        if isinstance(data, ImageSet):
            return BatchLoader(data, batch_size, device=choose_device(data, self.device), **options)
        assert isinstance(data, ImageFiles)
        workers = count_cores() if self.hparams["num_workers"] is None else self.hparams["num_workers"]
        pin_memory = self.device.type == "cuda"  # lets the copy to the GPU run in the background
        return make_file_loader(data, batch_size, num_workers=workers, pin_memory=pin_memory, **options)

    @property
    def shard(self) -> Shard:
        """This process's shard of each training batch and of each evaluated set; everything without a Trainer."""
        return Shard() if self.trainer is None else Shard(self.trainer.global_rank, self.trainer.world_size)

    @property
    def device(self) -> torch.device:
        """The training device; the CPU without a Trainer."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment training batches on their device."""
        images, labels, *positions = batch
        if self.trainer is not None and self.trainer.training:
            if self.trainer.current_epoch != self.drawn_epoch:
                self.draw_epoch(self.trainer.current_epoch)
            images = self.augment(images, *positions)
        return images, labels

    def draw_epoch(self, epoch: int) -> None:
        """Draw the augmentation of all training images for ``epoch``, in place.

        An image's draws depend only on the run's seed, the epoch and its position: not on batches, shards or a resume.
        """
        self.drawn_epoch, flip, count = epoch, self.hparams["flip"], len(self.train)
        generator = make_generator(self.seed, -1 - epoch)  # the shuffle uses those of 0 and above
        flips = augment.draw_flips(count, generator)
        if flip == "alternating":
            flips = augment.draw_flips(count, make_generator(self.seed, -1)) ^ (epoch % 2 == 1)
        offsets = augment.draw_offsets(count, self.hparams["crop_padding"], generator)
        centres = augment.draw_centres(count, SIZE, SIZE, generator)
        self.draws.copy_(torch.cat([(flips & bool(flip))[:, None], offsets, centres], 1).to(torch.uint8))

    def augment_batch(self, images: Tensor, positions: Tensor) -> Tensor:
        """Flip, crop, cut out and scale down images (B, 3, 32, 32) at ``positions`` int64 (B,) in the training set.

        Reads only tensors on the images' device, ``draws`` among them, so that a CUDA graph can record it.
        """
        padding, size = self.hparams["crop_padding"], self.find_size()
        draws = self.draws.index_select(0, positions).long()
        if self.hparams["flip"] or padding:
            images = augment.flip_crop(images, draws[:, 0], draws[:, 1:3], padding)
        if side := self.hparams["cutout"]:
            images = augment.cutout(images, draws[:, 3:], side, self.fill)
        return images if size == SIZE else resize(images, [size, size])  # bilinear, antialiased

    def find_size(self) -> int:
        """Return the height and width of training images at the Trainer's step; without a Trainer, the last size."""
        sizes, shares = self.hparams["sizes"], self.hparams["size_shares"]
        if self.trainer is None or len(sizes) == 1:
            return sizes[-1]
        total = self.trainer.estimated_stepping_batches  # before training, this builds the loaders
        return find_size(sizes, shares, self.trainer.global_step, total)
