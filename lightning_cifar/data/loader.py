"""Batches of a set in memory, and their order, which depends only on seed and epoch."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, SequentialSampler

from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.distributed import Shard
from lightning_cifar.errors import InputError, check_range

ALL = Shard()


def make_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a CPU generator that depends only on (seed, epoch)."""
    # The large odd multiplier separates pairs: seed 0 at epoch 1 differs from seed 1 at epoch 0.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + epoch) % 2**63)


def draw_balanced(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Return as many positions as there are ``labels``, of each class equally often, ascending.

    All epochs together read an endless list. The classes take turns in it, and the images of a class follow each other
    in one random order. So no image is drawn again before all others of its class, and classes of one size are drawn
    as they are.
    """
    order = torch.randperm(len(labels), generator=make_generator(seed, 2**31))  # the epochs use those below
    order = order[labels[order].argsort(stable=True)]  # class after class
    counts = labels.bincount()
    counts = counts[counts > 0]
    turns = torch.arange(epoch * len(labels), (epoch + 1) * len(labels))
    label, turn = turns % len(counts), turns // len(counts)
    return order[(counts.cumsum(0) - counts)[label] + turn % counts[label]].sort().values


class Order(DistributedSampler[int], SequentialSampler):
    """Positions 0 to size - 1, shuffled in each epoch by (seed, epoch), or ascending if ``seed`` is None.

    It divides each batch itself. Lightning divides no `DistributedSampler` again, and replaces no `SequentialSampler`.

    ``batch_size`` is the global batch size, and ``shard`` the part of each batch for this process; `check_batch_size`
    ensures that all batches divide evenly. With ``labels``, a position is one of those that `draw_balanced` returns;
    without, it is that of an image.
    """

    def __init__(
        self, size: int, seed: int | None = None, batch_size: int = 1, shard: Shard = ALL, labels: Tensor | None = None
    ) -> None:
        self.size, self.order_seed, self.epoch = size, seed, 0
        self.batch_size, self.shard, self.labels = batch_size, shard, labels
        self.fixed = False  # the same order in every epoch, for `overfit_batches`
        self.first = 0  # global position at which the next epoch starts: above 0 after a resume within an epoch

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the epoch's positions from ``first`` on, which becomes 0, and the image at each: int64, on the CPU."""
        first, self.first, epoch = self.first, 0, 0 if self.fixed else self.epoch
        if self.order_seed is None:
            order = torch.arange(self.size)
        else:
            order = torch.randperm(self.size, generator=make_generator(self.order_seed, epoch))
        positions = self.shard.of_batches(order[first:], self.batch_size)
        if self.labels is None:
            return positions, positions
        return positions, draw_balanced(self.labels, self.order_seed or 0, epoch)[positions]

    def __len__(self) -> int:
        return self.size // self.shard.count

    def __iter__(self) -> Iterator[int]:
        """Yield positions or, with ``labels``, a position and its image."""
        pairs = torch.stack(self.draw(), 1)
        return iter((pairs[:, 0] if self.labels is None else pairs).tolist())


class BatchLoader:
    """Loader of ``(images uint8 (B, 3, H, W), labels int64 (B,))``. Lightning accepts it in place of a DataLoader.

    Args:
        data: the set to load.
        batch_size: global batch size, at least 1; the last batch may be smaller. B is the part for this process.
        seed: shuffle each epoch by (seed, epoch); None keeps the order.
        drop_last: leave out a last batch of fewer than ``batch_size`` images.
        balanced: draw each class equally often; see `draw_balanced`.
        positions: add to each batch the positions of its images in ``data``, or in what was drawn, int64 (B,).
        device: where the set is stored and batches are gathered.
        shard: part of each batch for this process.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        seed: int | None = None,
        drop_last: bool = False,
        balanced: bool = False,
        positions: bool = False,
        device: torch.device | str = "cpu",
        shard: Shard = ALL,
    ) -> None:
        check_batch_size(batch_size, len(data), drop_last, shard)
        self.pixels = data.images.permute(0, 2, 3, 1).contiguous().to(device)  # (N, H, W, C): images are contiguous
        self.labels = data.labels.to(device)
        self.batch_size, self.drop_last, self.positions = batch_size, drop_last, positions
        # Lightning calls its `set_epoch`.
        self.sampler = Order(len(data), seed, batch_size, shard, data.labels if balanced else None)
        self.batch = 0

    batch_sampler = None  # Lightning expects one next to every sampler

    def __len__(self) -> int:
        size = self.sampler.size
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches given in this epoch. Lightning saves it in checkpoints."""
        return {"batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next epoch after that number of batches."""
        check_range("the number of batches in the checkpoint", state["batch"], "[0, inf)", whole=True)
        self.sampler.first = state["batch"] * self.sampler.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        self.batch = self.sampler.first // self.batch_size
        share = self.batch_size // self.sampler.shard.count
        parts = (drawn.to(self.labels.device).split(share) for drawn in self.sampler.draw())
        for positions, chosen in [*zip(*parts, strict=True)][: len(self) - self.batch]:
            self.batch += 1
            images = self.pixels.index_select(0, chosen).permute(0, 3, 1, 2)  # channels-last in memory
            batch = images, self.labels.index_select(0, chosen)
            yield (*batch, positions) if self.positions else batch


def check_batch_size(batch_size: int, size: int, drop_last: bool, shard: Shard) -> None:
    """Raise `InputError` if ``batch_size`` gives no batch, or batches that do not divide among the processes."""
    check_range("batch_size", batch_size, "[1, inf)")
    if drop_last and batch_size > size:
        raise InputError(f"with drop_last, batch_size must be at most the {size} images there are, got {batch_size}")
    shard.check(batch_size, size, drop_last)


def choose_device(data: ImageSet, device: torch.device) -> torch.device:
    """Return where to store ``data`` for training on ``device``: there if it is a CUDA device with room, else the CPU.

    Half of the free memory is left to the network and its activations.
    """
    if device.type == "cuda" and data.images.nbytes <= torch.cuda.mem_get_info(device)[0] / 2:
        return device
    return torch.device("cpu")
