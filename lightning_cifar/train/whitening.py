"""The filters of whitening stems, from training images."""

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_cifar.data.dataset import LabelledImages
from lightning_cifar.data.square import SIZE
from lightning_cifar.model.network import FiveBlockNet

IMAGES = 5000  # of 32x32: the memory for the patches of larger ones is the same


def whiten_stems(
    networks: Sequence[FiveBlockNet], train: LabelledImages, normalise: Callable[[Tensor], Tensor]
) -> None:
    """Set the filters of the networks' stems, unless they are set, by evenly spaced training images."""
    if stems := [network.stem for network in networks if network.stem is not None and not network.stem.whitened]:
        side = train.sample(1).images.shape[-1]
        images = normalise(train.sample(IMAGES * SIZE**2 // side**2).images)
        for stem in stems:
            stem.whiten(images)
