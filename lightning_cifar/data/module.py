"""Data module: a dataset, its splits, their loaders, and augmentation after the transfer to the device."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import resize

from lightning_cifar.data import augment
from lightning_cifar.data.arguments import LOCATIONS, HeldOut, check_arguments
from lightning_cifar.data.dataset import Dataset, ImageSet, LabelledImages, hold_out, measure_channels
from lightning_cifar.data.loader import BatchLoader, choose_device, make_generator
from lightning_cifar.data.sizes import find_size
from lightning_cifar.data.source import SourceName, find_source
from lightning_cifar.data.square import SIZE, NonSquare
from lightning_cifar.data.steps import count_steps
from lightning_cifar.data.transform import Transform, apply_transform, find_transform
from lightning_cifar.distributed import Shard
from lightning_cifar.errors import InputError, list_some
from lightning_cifar.values import to_plain

STATISTICS_SAMPLE = 5000  # images of 32x32, fewer of larger ones: gives the mean of CIFAR-10 to about 0.003


class CIFAR10DataModule(LightningDataModule):
    """Lightning data module of uint8 batches. The data is read once and, if it fits, stored on the training device.

    After `setup`, ``train``, ``val`` and ``test`` hold ``images`` uint8 (N, 3, image_size, image_size) and ``labels``
    int64 (N,); they can be sliced, and ``sample(n)`` returns n evenly spaced images. ``mean`` and ``std`` are the
    statistics of the training pixels in each channel.

    Args:
        dataset: ``cifar10`` or ``cifar100`` (downloaded at first use), ``folder`` (images in ``train/<class>/*``,
            ``val/<class>/*`` and ``test/<class>/*``, or in ``<class>/*``) or ``digits`` (ships with scikit-learn).
        root: data directory; default: the environment variable LIGHTNING_CIFAR_DATA, or ``data``.
        url: a mirror of the CIFAR archive, or several, separated by commas.
        archive: a local CIFAR archive (``.tar.gz``).
        batch_size: global batch size of training: images per step over all processes.
        eval_batch_size: images per evaluation step in each process; affects speed and memory, not results.
        held_out: what is evaluated during training. ``val``: ``val_size`` held-out training images. ``test``: the test
            set, while all training images are used, as in the course report; select nothing by it.
        val_size: size of the stratified validation split; default: a tenth of the training images, at most 5,000.
            Unused if the folder has a ``val`` or ``held_out`` is ``test``.
        split_seed: seed of the validation split, and of the test split of a ``folder`` without ``val`` and ``test``;
            independent of the run's seed, so that runs can be compared.
        flip: mirror each training image with probability 1/2. ``alternating``: mirror a random half of the images in
            the first epoch, the other half in the next, and so on (github.com/KellerJordan/cifar10-airbench).
        crop_padding: random crops of training images after reflection padding by this many pixels; 0: no crops.
        cutout: side of a square at a random position of each training image that is filled with the mean colour
            (arXiv 1708.04552); 0: none.
        transform: further augmentation, after flip and crop: ``rand_augment``, ``trivial_augment``, a function of uint8
            batches (B, 3, H, W) on the training device, or its name ``PACKAGE.MODULE:FUNCTION``.
        sizes: height and width of training images, from 8 pixels to ``image_size``, the default; several are used one
            after the other, since smaller images make cheaper steps (progressive resizing).
        size_shares: relative number of steps at each of several ``sizes``, above 0; default: equal shares.
        drop_last: leave out the last training batch of an epoch if it is not full.
        balanced: draw each class equally often, as many images in all as there are: rare ones again, augmented anew.
        in_memory: False decodes the files of a ``folder`` when they are due; ``mean`` and ``std`` are then those of
            5,000 evenly spaced images, fewer of large ones. ``auto``: False if they need over a third of free memory.
        num_workers: number of processes that decode them, 0: the training process; default: one per core.
        image_size: height and width that every image gets, 32 to 224 pixels.
        non_square: ``crop`` cuts the centred square out of an image that is not square, ``letterbox`` adds grey bars.
        labels: a CSV file with the columns ``path`` and ``label``, and optionally ``split``, for the images of a
            ``folder``; default: the names of the folders are the labels.
        classes: names of a model's classes, for a ``folder`` that holds only images to test on, of some classes.
    """

    __str__ = object.__str__  # Lightning's takes batches of loaders that are no DataLoaders for descriptions of them

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
        transform: str | Transform | None = None,
        sizes: Sequence[int] | None = None,
        size_shares: Sequence[float] | None = None,
        drop_last: bool = False,
        balanced: bool = False,
        in_memory: bool | Literal["auto"] = "auto",
        num_workers: int | None = None,
        image_size: int = SIZE,
        non_square: NonSquare = "crop",
        labels: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["transform"])  # a module, of which Lightning would warn
        plain = to_plain(dict(self.hparams) | {"transform": transform}).items()
        self.hparams.update({name: list(one) if isinstance(one, tuple | range) else one for name, one in plain})
        check_arguments(self.hparams)
        self.root = Path(os.path.expanduser(root or os.environ.get("LIGHTNING_CIFAR_DATA") or "data"))
        self.loaded: Dataset | None = None
        self.given_transform = transform
        self.transform: Transform | None = None
        self.augment: Callable[[Tensor, Tensor], Tensor] = self.augment_batch  # `start_replay` replaces it
        # For each training image: mirrored, top and left of the crop, row and column of the cutout. Always this memory.
        self.draws = torch.empty(0, 5, dtype=torch.uint8)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Call Lightning's method; run no stored code, and let only ``kwargs`` say where the data lies."""
        options = {"weights_only": True, **dict.fromkeys(LOCATIONS), **kwargs}
        return super().load_from_checkpoint(checkpoint_path, *args, **options)

    @property
    def num_classes(self) -> int:
        """Number of classes; available before `setup`, for a folder by listing it."""
        count = find_source(self.hparams["dataset"]).count_classes(self.hparams, self.root)
        if (known := self.hparams["classes"]) and len(known) != count:
            names = f"{len(known)} classes ({list_some(known)})"
            raise InputError(f"the model, by data.classes, has {names}, the data {count}: name data with its classes")
        return count

    @property
    def dataset(self) -> Dataset:
        """The dataset as it was read, before the split; `setup` reads it."""
        if self.loaded is None:
            raise RuntimeError("call setup() first: no data has been read")
        return self.loaded

    def __getattr__(self, name: str) -> Any:
        why = ": call setup() first" if name in ("train", "val", "test", "mean", "std") else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{why}")

    def prepare_data(self) -> None:
        """Download or decode if necessary. Lightning calls this in one process."""
        self.read()

    def setup(self, stage: str | None = None) -> None:
        """Read the dataset, split it and measure ``mean`` and ``std`` of the training pixels, in units of [0, 1]."""
        self.transform = find_transform(self.given_transform) if stage == "fit" else None
        if not hasattr(self, "train"):
            self.split(self.read())
        if (stage == "fit" and not len(self.train)) or (stage == "validate" and not len(self.val)):
            raise InputError(f"root {self.root} holds only images to test on: {stage} needs train/<class>/* there")

    def split(self, dataset: Dataset) -> None:
        self.train, self.test = dataset.train, dataset.test
        if self.hparams["held_out"] == "test":
            self.val = dataset.test
        elif dataset.val is not None:
            self.val = dataset.val
        else:
            self.train, self.val = hold_out(dataset, self.hparams["val_size"], self.hparams["split_seed"])
        measured = self.train if len(self.train) else self.test  # there are only these
        if not isinstance(measured, ImageSet):
            measured = measured.sample(STATISTICS_SAMPLE * SIZE // self.hparams["image_size"], dataset)
        self.mean, self.std = measure_channels(measured.images)

    def read(self) -> Dataset:
        """Return the dataset; only the first call reads it."""
        self.loaded = self.loaded or find_source(self.hparams["dataset"]).load(self.hparams, self.root)
        return self.loaded

    def train_dataloader(self) -> BatchLoader | DataLoader[Any]:
        if len(self.draws) != len(self.train) or self.draws.device != self.device:
            self.draws = self.draws.new_empty(len(self.train), 5, device=self.device)
            self.fill = torch.tensor([round(255 * mean) for mean in self.mean], dtype=torch.uint8, device=self.device)
        self.seed = torch.initial_seed()
        self.draw_epoch(0 if self.trainer is None else self.trainer.current_epoch)
        options = {name: self.hparams[name] for name in ("batch_size", "drop_last", "balanced")}
        options["positions"] = self.trainer is not None and self.trainer.training  # for `on_after_batch_transfer`
        loader = self.make_loader(self.train, **options, seed=self.seed, shard=self.shard)
        loader.sampler.fixed = getattr(self.trainer, "overfit_batches", 0) > 0  # type: ignore[union-attr]  # an `Order`
        return loader

    def val_dataloader(self) -> BatchLoader | DataLoader[Any]:
        return self.make_loader(self.val[self.shard.of_set(len(self.val))], self.hparams["eval_batch_size"])

    def test_dataloader(self) -> BatchLoader | DataLoader[Any]:
        return self.make_loader(self.test[self.shard.of_set(len(self.test))], self.hparams["eval_batch_size"])

    def predict_dataloader(self) -> BatchLoader | DataLoader[Any]:
        return self.test_dataloader()

    def make_loader(self, data: LabelledImages, batch_size: int, **options: Any) -> BatchLoader | DataLoader[Any]:
        if isinstance(data, ImageSet):
            return BatchLoader(data, batch_size, device=choose_device(data, self.device), **options)
        pinned = self.device.type == "cuda"  # lets the copy to the GPU run in the background
        workers = self.hparams["num_workers"]
        return data.make_loader(batch_size, dataset=self.loaded, num_workers=workers, pin_memory=pinned, **options)

    @property
    def shard(self) -> Shard:
        """This process's shard of each training batch and of each evaluated set; everything without a Trainer."""
        return Shard() if self.trainer is None else Shard(self.trainer.global_rank, self.trainer.world_size)

    @property
    def device(self) -> torch.device:
        """The training device; the CPU without a Trainer."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment the batches of `train_dataloader` on their device; those of a subclass's loaders stay as they are."""
        trainer, own = self.trainer, isinstance(batch, tuple) and len(batch) == 3 and len(self.draws) > 0
        if trainer is None or not (trainer.training and own):
            return batch
        if trainer.current_epoch != self.drawn_epoch:
            self.draw_epoch(trainer.current_epoch)
        return self.augment(batch[0], batch[2]), batch[1]

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
        centres = augment.draw_centres(count, self.hparams["image_size"], self.hparams["image_size"], generator)
        self.draws.copy_(torch.cat([(flips & bool(flip))[:, None], offsets, centres], 1).to(torch.uint8))

    def augment_batch(self, images: Tensor, positions: Tensor) -> Tensor:
        """Flip, crop, cut out and scale down images (B, 3, H, W) at ``positions`` int64 (B,) in the training set.

        Reads only tensors on the images' device, ``draws`` among them, so that a CUDA graph can record it.
        """
        padding, size = self.hparams["crop_padding"], self.find_size()
        draws = self.draws.index_select(0, positions).long()
        if self.hparams["flip"] or padding:
            images = augment.flip_crop(images, draws[:, 0], draws[:, 1:3], padding)
        images = apply_transform(self.transform, images)
        if side := self.hparams["cutout"]:
            images = augment.cutout(images, draws[:, 3:], side, self.fill)
        return images if size == images.shape[-1] else resize(images, [size, size])  # bilinear, antialiased

    def find_size(self) -> int:
        """Return the height and width of training images at the Trainer's step; without a Trainer, the last size."""
        sizes, shares = self.hparams["sizes"] or [self.hparams["image_size"]], self.hparams["size_shares"]
        if self.trainer is None or len(sizes) == 1:
            return sizes[-1]
        return find_size(sizes, shares, self.trainer.global_step, count_steps(self.trainer, self))
