"""Averages of the weights by Lightning's callbacks: two corrections."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.data.steps import count_steps
from lightning_cifar.errors import InputError


def prepare_averages(trainer: Trainer, data: Any) -> None:
    """Correct callbacks that average the weights; `InputError` if one would never begin to.

    They copy integers and constants, whose mean would be rounded, and all weights until averaging begins: Lightning
    would evaluate and save the initial ones.
    """
    for one in find_callbacks(trainer, WeightAveraging):
        if isinstance(one, EMAWeightAveraging) and one.update_starting_at_epoch is None:
            start, total = one.update_starting_at_step or 0, count_steps(trainer, data)
            if start >= total:
                raise InputError(f"update_starting_at_step {start:,}: training ends at step {total:,.0f}; lower it")
        if (average := one._average_model) is not None:
            if mean := average.avg_fn:
                average.avg_fn = partial(average_changes, mean)
            for name in ("on_validation_epoch_start", "on_save_checkpoint", "on_train_end"):  # set anew by each fit
                setattr(one, name, partial(copy_weights, average, getattr(type(one), name).__get__(one)))


def average_changes(mean: Callable[..., Tensor], old: Tensor, new: Tensor, count: Tensor) -> Tensor:
    return mean(old, new, count).where(old != new, new) if new.is_floating_point() or new.is_complex() else new


def copy_weights(average: AveragedModel, use: Callable[..., None], trainer: Trainer, module: Any, *args: Any) -> None:
    """Copy the weights to an average that has not begun, then call the hook that uses it."""
    if not average.n_averaged:
        average.update_parameters(module)  # the first one copies
        average.n_averaged.zero_()
    use(trainer, module, *args)
