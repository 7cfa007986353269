"""BatchLoader: batches of a set that lies in memory, in an `Order` that depends on seed and epoch alone."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.distributed import Shard
from lightning_cifar.errors import InputError

ALL = Shard()


def seeded(seed: int, epoch: int) -> torch.Generator:
    """A generator on the CPU for (seed, epoch) alone."""
    # A large odd multiplier keeps pairs apart: seed 0 at epoch 1 is not seed 1 at epoch 0.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + epoch) % 2**63)


class Order(Sampler[int]):
    """Positions 0 ... size - 1, shuffled every epoch anew by (seed, epoch); as they are where ``seed`` is None.

    Of several processes, each has its `Shard` of every batch.

    Args:
        size: how many, at least 1.
        seed: see above.
        batch_size: of all processes together; all batches must divide evenly.
        shard: this process's.
    """

    def __init__(self, size: int, seed: int | None = None, batch_size: int = 1, shard: Shard = ALL) -> None:
        self.size, self.seed, self.epoch = size, seed, 0
        self.batch_size, self.shard = batch_size, shard
        self.first = 0  # of the next epoch, before it is divided: where a resumed one goes on

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch."""
        self.epoch = epoch

    def positions(self) -> Tensor:
        """What is left of them, int64, on the CPU, whose generator gives the same order on every machine."""
        first, self.first = self.first, 0
        if self.seed is None:
            order = torch.arange(self.size)
        else:
            order = torch.randperm(self.size, generator=seeded(self.seed, self.epoch))
        return self.shard.of_batches(order[first:], self.batch_size) if self.shard.count > 1 else order[first:]

    def __len__(self) -> int:
        return self.size // self.shard.count

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions().tolist())


class BatchLoader:
    """Iterates over ``(images uint8 (B, 3, H, W), labels int64 (B,))``; Lightning takes it as any DataLoader.

    Args:
        data: the whole set.
        batch_size: at least 1; the last batch holds what is left. B is this, or its share of each process.
        seed: shuffles every epoch anew by (seed, epoch); None keeps the order.
        drop_last: leave out a last batch of fewer than ``batch_size``.
        positions: give with each batch where its images stand in ``data``, int64 (B,).
        device: where the set is kept, and the batches are made.
        shard: of several processes, the part of every batch that this one gives.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        seed: int | None = None,
        drop_last: bool = False,
        positions: bool = False,
        device: torch.device | str = "cpu",
        shard: Shard = ALL,
    ) -> None:
        check_batch_size(batch_size, len(data), drop_last, shard)
        self.pixels = data.images.permute(0, 2, 3, 1).contiguous().to(device)  # a batch is gathered in whole images
        self.labels = data.labels.to(device)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.positions = positions
        self.sampler = Order(len(data), seed, batch_size, shard)  # by this name Lightning finds its `set_epoch`
        self.batch = 0

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __len__(self) -> int:
        size = self.sampler.size
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """Lightning keeps it in checkpoints: how many batches of the epoch were given."""
        return {"batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next epoch starts behind so many batches."""
        self.sampler.first = state["batch"] * self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        self.batch = self.sampler.first // self.batch_size
        order = self.sampler.positions().to(self.labels.device)
        share = self.batch_size // self.sampler.shard.count
        for chosen in order.split(share)[: len(self) - self.batch]:
            self.batch += 1
            images = self.pixels.index_select(0, chosen).permute(0, 3, 1, 2)  # channels-last in memory
            batch = images, self.labels.index_select(0, chosen)
            yield (*batch, chosen) if self.positions else batch


def check_batch_size(batch_size: int, size: int, drop_last: bool, shard: Shard) -> None:
    """Refuses, by an `InputError`, a ``batch_size`` below 1, with which there is no batch, or that cannot be shared."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if drop_last and batch_size > size:
        raise InputError(f"with drop_last, batch_size must be at most the {size} images there are, got {batch_size}")
    shard.check(batch_size, size, drop_last)


def home(data: ImageSet, device: torch.device) -> torch.device:
    """Where to keep ``data`` that is trained on by ``device``: there if it is a CUDA device with room, else in RAM.

    Half of the free memory is left to the network and its activations.
    """
    if device.type == "cuda" and data.images.nbytes <= torch.cuda.mem_get_info(device)[0] / 2:
        return device
    return torch.device("cpu")
