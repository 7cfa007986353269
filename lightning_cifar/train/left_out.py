"""Warnings about what a training from Python leaves out without an error."""

from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_cifar.data.loader import Order
from lightning_cifar.data.module import CIFAR10DataModule


def warn_of_what_is_left_out(
    module: LightningModule, data: CIFAR10DataModule | None, reference: type[LightningModule]
) -> None:
    """Warn of what a training loses: augmentation, a ``forward`` unlike that of ``reference``, loadable checkpoints."""
    if (data is None) == isinstance(getattr(module.trainer.train_dataloader, "sampler", None), Order):
        rank_zero_warn("training without augmentation: pass trainer.fit the data module, with its own loader")
    if is_overridden("forward", module, reference) and not is_overridden("training_step", module, reference):
        unused = f"{type(module).__name__}.forward, which training_step and test_step do not call"
        rank_zero_warn(f"training without {unused}: pass a network that does the same, or override them too")
    if any(type(one).__name__ == "OptimizedModule" for one in module.modules()):
        rank_zero_warn("a checkpoint of torch.compile(network) fits no other: set compile=True, or network.compile()")
