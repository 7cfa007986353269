"""Internals of Lightning and torchmetrics that exact resume needs, all in this file.

Lightning's checkpoints lack the sums of the current epoch's metrics, and Lightning calls no hook between two steps, the
one moment at which everything is consistent. `INTERNALS` lists every name that is touched, and why;
``tests/run/checkpoints/test_resume_contract.py`` names the one that is missing when a release changes it.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from lightning_cifar.run.checkpoints.random_state import get_random_states, restore_random_states

INTERNALS = {  # from a Trainer, a metric, a logged result or a checkpoint
    "fit_loop/epoch_loop/on_advance_end": "runs last in a step: `follow` continues it",
    "fit_loop/on_advance_end": "runs last in an epoch: `follow` continues it",
    "fit_loop/epoch_loop/batch_progress/is_last_batch": "the end of the epoch is near, and saves what is due",
    "fit_loop/epoch_loop/done": "the same, when max_steps ends the epoch early",
    "fit_loop/epoch_loop/batch_progress/current/ready": "batches taken of this epoch: 0 at its beginning",
    "fit_loop/epoch_loop/restarting": "with max_steps, Lightning takes the beginning of an epoch for its end",
    "fit_loop/epoch_loop/_batches_that_stepped": "the number of the next logged step",
    "fit_loop/epoch_loop/_num_ready_batches_reached": "whether the end of training is also that of an epoch",
    "fit_loop/epoch_loop/_should_accumulate": "gradients half accumulated are in no checkpoint",
    "fit_loop/epoch_loop/_should_check_val_fx": "a validation that is due would be left out",
    "fit_loop/epoch_loop/_results": "sums of what `self.log(on_epoch=True)` logged so far",
    "_accelerator_connector/cluster_environment": "SLURM's environment, with its requeue signal",
    "metric/_update_count": "how often a torchmetrics metric was updated",
    "metric/metric_state": "its sums so far",
    "result/_defaults": "names of the sums of a logged value",
    "result/is_tensor": "whether a logged value is a tensor, and not a metric",
    "result/meta/on_epoch": "whether it is summed over the epoch",
    "result/has_reset": "whether its sums belong to an epoch that has ended",
    "result/value": "its sum",
    "checkpoint/loops/fit_loop/state_dict/combined_loader": "how many batches of the epoch were taken",
    "checkpoint/loops/fit_loop/epoch_loop.batch_progress/current": "counts of the epoch that has ended",
    "checkpoint/loops/fit_loop/epoch_loop.state_dict/_batches_that_stepped": "the number of the next logged step",
    **{
        f"checkpoint/loops/fit_loop/{counts}": "whether the epoch, its last step and its validation have ended"
        for counts in (
            "epoch_loop.batch_progress/is_last_batch",
            *(f"epoch_loop.batch_progress/total/{name}" for name in ("ready", "processed", "completed")),
            *(f"epoch_loop.val_loop.batch_progress/total/{name}" for name in ("ready", "completed")),
            *(f"epoch_progress/total/{name}" for name in ("ready", "started", "processed", "completed")),
            "epoch_progress/current",
        )
    },
}
Reduce = Callable[[Any], Any]


def follow(loop: Any, then: Callable[..., None]) -> None:
    """Call ``then`` at the end of each step of Lightning's epoch loop, or of each epoch of its fit loop.

    An epoch ends after validation and all hooks. ``then`` gets the arguments of the loop's method.
    """
    first = loop.on_advance_end

    def both(*args: Any) -> None:
        first(*args)
        then(*args)

    loop.on_advance_end = both


def stop_following(trainer: Trainer) -> None:
    """Undo `follow`."""
    for loop in (trainer.fit_loop.epoch_loop, trainer.fit_loop):
        loop.__dict__.pop("on_advance_end", None)


def begin_epoch(trainer: Trainer) -> None:
    """Begin with a step if the checkpoint is of an epoch's end; with max_steps, Lightning would count one untaken."""
    loop = trainer.fit_loop.epoch_loop
    if not loop.batch_progress.current.ready:
        loop.restarting = False


def continue_after_validation(trainer: Trainer) -> None:
    """Count the step only once after which training ended, if it was validated: Lightning counts it when it resumes."""
    loop: Any = trainer.fit_loop.epoch_loop
    if loop.restarting and loop._should_check_val_fx(None):  # a fetcher matters after the last batch only
        loop._batches_that_stepped -= 1


def is_resumable(trainer: Trainer, fetcher: Any) -> bool:
    """Return whether Lightning resumes exactly from a checkpoint of this step; else the epoch's end saves."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.is_last_batch or loop.done:
        return False
    return not (loop._should_accumulate() or loop._should_check_val_fx(fetcher))


def ends_within_epoch(trainer: Trainer) -> bool:
    """Return whether training ends after this step, which is not the last of its epoch: by max_steps or max_time."""
    return bool(trainer.fit_loop.epoch_loop.done and not is_last_step(trainer))


def is_last_step(trainer: Trainer) -> bool:
    """Return whether this is the last step of an epoch."""
    return bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())


def is_accumulating(trainer: Trainer) -> bool:
    """Return whether the gradients of this step are still to be added to those of the next."""
    return bool(trainer.fit_loop.epoch_loop._should_accumulate())


def collect_epoch_sums(trainer: Trainer, reduce: Reduce) -> dict[str, dict[str, Any]]:
    """Return the sums so far of what is logged over the epoch; ``reduce`` sums a tensor over all processes."""
    return {
        key: {name: reduce(getattr(result, name)) for name in result._defaults}
        for key, result in trainer.fit_loop.epoch_loop._results.items()
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def add_epoch_sums(trainer: Trainer, stored: dict[str, dict[str, Any]]) -> None:
    """Add stored sums to those of the same name, and remove them from ``stored``; what is not logged yet stays."""
    results = trainer.fit_loop.epoch_loop._results
    for key in [key for key in stored if key in results]:
        for name, value in stored.pop(key).items():
            own = getattr(results[key], name)
            if value.shape != own.shape:
                raise ValueError(f"the sum of {key} has the shape {tuple(value.shape)}, not {tuple(own.shape)}")
            setattr(results[key], name, own + value.to(results[key].value.device))


def collect_metric_states(module: LightningModule, reduce: Reduce) -> dict[str, dict[str, Any]]:
    """Return the state of every metric in ``module``; ``reduce`` as in `collect_epoch_sums`."""
    return {
        name: {
            **{state: reduce(value) for state, value in part.metric_state.items()},
            "_update_count": part._update_count,
        }
        for name, part in module.named_modules()
        if isinstance(part, Metric)
    }


def restore_metric_states(module: LightningModule, stored: Mapping[str, Mapping[str, Any]]) -> None:
    for name, states in stored.items():
        metric = module.get_submodule(name)
        for state, value in states.items():
            if type(value) is not (wanted := type(getattr(metric, state))):
                raise TypeError(f"{name}.{state} is a {type(value).__name__}, not a {wanted.__name__}")
            setattr(metric, state, value.to(module.device) if isinstance(value, Tensor) else value)


def check_types(name: str, stored: Any, own: Any) -> None:
    """Raise a TypeError unless a stored value has the type of ``own``, and so has each part that both have."""
    if type(stored) is not type(own):
        raise TypeError(f"{name} is a {type(stored).__name__}, not a {type(own).__name__}")
    if isinstance(own, dict):
        for key in own.keys() & stored.keys():
            check_types(f"{name}.{key}", stored[key], own[key])


def try_step(trainer: Trainer) -> None:
    """Take a step with copies of the restored optimisers and schedules; an error says that a state does not fit.

    Shapes are compared before: torch's fused steps would read and write beside the memory of another shape.
    """
    for optimizer in trainer.optimizers:
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
            continue
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                wanted = () if name == "step" else tuple(parameter.shape)
                if value is not None and (shape := tuple(value.shape)) != wanted:
                    raise ValueError(f"{name} in the optimiser's state has the shape {shape}, not {wanted}")
    if not all("role" in group for one in trainer.optimizers for group in one.param_groups):
        return  # a subclass's own: their steps may need more than their state
    schedules = [one.scheduler for one in trainer.lr_scheduler_configs]
    optimizers, schedules = copy.deepcopy((trainer.optimizers, schedules))
    random_states = get_random_states()
    try:
        for optimizer in optimizers:
            for parameter in (one for group in optimizer.param_groups for one in group["params"]):
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        with warnings.catch_warnings(action="ignore"):  # torch's: a schedule does not know the step of a copy
            for schedule in schedules:
                if not isinstance(schedule, ReduceLROnPlateau):  # it waits for a metric
                    schedule.step()
    finally:
        restore_random_states(random_states)


def start_next_epoch(checkpoint: dict[str, Any]) -> None:
    """Set the counts within the epoch to 0 in a checkpoint of an epoch that ended; Lightning would carry them over."""
    loops = checkpoint["loops"]["fit_loop"]
    for name, progress in loops.items():
        if name.startswith("epoch_loop."):
            forget_current(progress)
    if "combined_loader" in (state := loops["state_dict"]):  # a plain DataLoader has no state
        state["combined_loader"] = [{"batch": 0} for _ in state["combined_loader"]]


def end_epoch(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint that a hook saved after an epoch's last step, or at its end, begin the next epoch.

    Lightning would begin that epoch without its hooks, or end the one before once more.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    validation = loops["epoch_loop.val_loop.batch_progress"]["total"]
    total, current, steps = epochs["total"], epochs["current"], batches["total"]
    has_begun = total["started"] == total["ready"] == total["processed"] + 1
    has_taken_last = batches["is_last_batch"] and steps["ready"] == steps["processed"]
    if has_begun and has_taken_last and validation["ready"] == validation["completed"]:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        steps["completed"] = steps["processed"]
        total["processed"], current["processed"] = total["ready"], current["ready"]
    if total["ready"] == total["processed"] == total["completed"] + 1:
        total["completed"] = total["processed"]
        current["completed"] = current["processed"]
        start_next_epoch(checkpoint)


def forget_current(progress: dict[str, Any]) -> None:
    for name, value in progress.items():
        if name == "current":
            progress[name] = dict.fromkeys(value, 0)
        elif name == "is_last_batch":
            progress[name] = False
        elif isinstance(value, dict):
            forget_current(value)


def find_requeue_signal(trainer: Trainer) -> int | None:
    """Return the signal by which SLURM announces the end of the job's time; None elsewhere."""
    cluster = trainer._accelerator_connector.cluster_environment
    if isinstance(cluster, SLURMEnvironment) and cluster.auto_requeue and cluster.requeue_signal:
        return int(cluster.requeue_signal)
    return None


def sum_over_processes(trainer: Trainer, value: Any) -> Any:
    """Return a tensor summed over all processes; other values, and the tensor of a single process, as they are."""
    if trainer.world_size > 1 and isinstance(value, torch.Tensor):
        return trainer.strategy.reduce(value.clone(), reduce_op="sum")
    return value
