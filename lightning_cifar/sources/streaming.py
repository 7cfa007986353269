"""Image folders larger than memory: worker processes decode each file when its batch is due."""

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_cifar.data.dataset import Dataset, ImageSet, select_evenly
from lightning_cifar.data.loader import ALL, BatchLoader, Order, check_batch_size
from lightning_cifar.data.square import SQUARE, Square
from lightning_cifar.distributed import Shard
from lightning_cifar.errors import InputError
from lightning_cifar.sources.decoding import count_cores, decode_all, iterate_images, refuse_damaged
from lightning_cifar.sources.images import decode


@dataclass(frozen=True)
class ImageFiles:
    """Labelled images on disk: ``paths`` bytes (N,), ``labels`` int64 (N,), and what every image becomes.

    ``paths`` is an array because the reference counts of a list of strings would be copied to every worker.
    """

    paths: np.ndarray
    labels: Tensor
    square: Square = SQUARE

    @classmethod
    def make(cls, files: Sequence[tuple[str, int]], square: Square) -> "ImageFiles":
        """Return the files with these paths and labels."""
        paths = np.array([os.fsencode(path) for path, _ in files])
        return cls(paths, torch.tensor([label for _, label in files]), square)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor | slice) -> "ImageFiles":
        # NumPy would read a tensor of one index as a scalar.
        chosen = self.paths[indices if isinstance(indices, slice) else indices.numpy()]
        return ImageFiles(chosen, self.labels[indices], self.square)

    def __getitems__(self, indices: list[int] | list[list[int]]) -> tuple[np.ndarray, ...]:
        """Return a batch to `FileLoader`: images uint8 (B, side, side, 3), labels and positions int64 (B,).

        ``indices`` are those that `Order` yields: positions, or pairs of a position and its image.
        Arrays, since workers send tensors through /dev/shm, which is small in containers: a full one hangs them.
        """
        pairs = np.array(indices).reshape(len(indices), -1)
        positions, chosen = pairs[:, 0], pairs[:, -1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, as in `iterate_images`
            pixels = np.stack([decode(os.fsdecode(path), self.square) for path in self.paths[chosen]])
        return pixels, self.labels.numpy()[chosen], positions

    def sample(self, size: int, dataset: Dataset | None = None) -> ImageSet:
        """Read ``size`` evenly spaced images, so that each class is represented; at most all."""
        chosen = self[select_evenly(len(self), size)]
        pixels, failures = decode_all("a sample", chosen.list_paths(), self.square)
        if failures and dataset:
            refuse_damaged(find_damaged(dataset))
        refuse_damaged(failures)
        return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2), chosen.labels)

    def make_loader(
        self,
        batch_size: int,
        dataset: Dataset | None = None,
        seed: int | None = None,
        drop_last: bool = False,
        balanced: bool = False,
        positions: bool = False,
        num_workers: int | None = 0,
        pin_memory: bool = False,
        shard: Shard = ALL,
    ) -> "FileLoader":
        """Return a loader that gives the batches of `BatchLoader` with the same arguments.

        Files are read by ``num_workers`` processes, None: one per core, 0: this one.
        """
        check_batch_size(batch_size, len(self), drop_last, shard)
        workers = count_cores() if num_workers is None else num_workers
        loader = FileLoader(
            self,  # type: ignore[arg-type]  # not a torch Dataset, but it has a length and __getitems__
            batch_size=batch_size // shard.count,  # a keyword, as Lightning passes it when it builds another
            sampler=Order(len(self), seed, batch_size, shard, self.labels if balanced else None),
            drop_last=drop_last,
            collate_fn=itemgetter(slice(3 if positions else 2)),
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # the global one is left to dropout, as with `BatchLoader`
        )
        if dataset is not None:
            loader.find_damaged = lambda: find_damaged(dataset)
        return loader

    def list_paths(self) -> list[str]:
        return [os.fsdecode(path) for path in self.paths]

    def iter_chunks(self) -> Iterator[bytes]:
        """Yield part, class, name and size of each file, for `Dataset.fingerprint`; contents are not read."""
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            name = b"/".join(path.split(os.fsencode(os.sep))[-3:])
            yield b"%d %s\0%d\n" % (label, name, os.stat(path).st_size)


def find_damaged(dataset: Dataset) -> list[str]:
    """Return a line for each file of the dataset that cannot be decoded."""
    parts = {id(part): part for part in (dataset.train, dataset.val, dataset.test) if isinstance(part, ImageFiles)}
    print("a file cannot be read: all files are checked, to name every such file", flush=True)
    found = (iterate_images("checking", part.list_paths(), part.square) for part in parts.values())
    return [line for part in found for line in part if isinstance(line, str)]


class FileLoader(DataLoader):
    """DataLoader with the state of `BatchLoader`; bad input found by a worker raises a one-line `InputError`."""

    batch = 0
    find_damaged: Callable[[], list[str]] = list  # called when a file cannot be decoded, to name all of them
    state_dict, load_state_dict = BatchLoader.state_dict, BatchLoader.load_state_dict

    def __iter__(self) -> Any:
        # For predict, Lightning builds a new loader with another sampler, which starts at the first batch.
        self.batch = self.sampler.first // self.sampler.batch_size if isinstance(self.sampler, Order) else 0
        try:
            [multiprocessing.Lock() for _ in range(20 * self.num_workers)]  # as many as torch needs, and some more
        except OSError as error:
            shortage = f"num_workers {self.num_workers} needs room in /dev/shm ({error.strerror})"
            raise InputError(f"{shortage}: enlarge it, or set it to 0") from error
        try:
            for batch in super().__iter__():
                self.batch += 1
                images, *others = [torch.from_numpy(part) for part in batch]
                batch = images.permute(0, 3, 1, 2), *others
                yield tuple(part.pin_memory() for part in batch) if self.pin_memory else batch
        except InputError as error:  # from a worker, the message is a whole traceback
            refuse_damaged(self.find_damaged())
            raise InputError(str(error).strip().splitlines()[-1].split("InputError: ")[-1]) from None
