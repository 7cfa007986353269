"""Checks of a parsed command before anything is written: options that contradict the launcher or have no effect."""

import os
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint

from lightning_cifar.data.images import SIZE
from lightning_cifar.errors import InputError, check_range
from lightning_cifar.model.named import FIVE_BLOCK
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.run.configurations import list_set_options
from lightning_cifar.run.rank_zero import is_rank_zero

# Launchers: a variable of each of its processes, and the variable with their number.
LAUNCHERS = {
    "torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"),
    "srun": ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}
# Variables by which a process finds the other machines; without one of them, it waits half an hour for them.
CLUSTER = {"MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", *(mark for mark, _ in LAUNCHERS.values())}

# Options of the Trainer that Lightning does not check, or for which it trains nothing without a line.
RANGES = {
    "[1, inf)": ("check_val_every_n_epoch", "accumulate_grad_batches"),
    "(0, inf)": ("limit_train_batches",),
    "[0, inf]": ("log_every_n_steps", "gradient_clip_val"),
}


def check_ranges(trainer: dict[str, Any], trains: bool) -> None:
    """Raise `InputError` for the first option of the Trainer whose value cannot be used, or trains nothing."""
    for interval, names in RANGES.items():
        for name in names:
            if trainer[name] is not None and (trains or name != "limit_train_batches"):
                check_range(f"--trainer.{name}", trainer[name], interval, whole=interval == "[1, inf)")
    interval = trainer["val_check_interval"]
    if isinstance(interval, int | float):
        check_range("--trainer.val_check_interval", interval, "(0, inf)")
    for name in ("max_epochs", "max_steps"):
        if trains and trainer[name] == 0:
            raise InputError(f"--trainer.{name} 0 trains nothing: set at least 1, or -1 for no limit")


def check_launcher(trainer: dict[str, Any]) -> None:
    """Raise `InputError` if a launcher's processes would each train alone, or several machines have no launcher."""
    if trainer["num_nodes"] > 1 and not CLUSTER & os.environ.keys():
        raise InputError(
            f"--trainer.num_nodes {trainer['num_nodes']}: no launcher started this process; start it on each machine "
            "by torchrun or srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK"
        )
    if trainer["devices"] not in (1, "1") or trainer["num_nodes"] != 1:
        return  # Lightning compares the numbers
    for launcher, (mark, number) in LAUNCHERS.items():
        count = os.environ.get(number, "1")
        if mark in os.environ and count not in ("0", "1"):
            if not is_rank_zero():
                raise SystemExit(2)  # rank 0 says why
            raise InputError(
                f"{launcher} started {count} processes for --trainer.devices 1: add --trainer.devices {count}"
            )


def list_indices(devices: Any) -> list[Any]:
    """Return the indices in ``[0]`` or ``0,``; none for a number of devices."""
    if isinstance(devices, str) and "," in devices:
        return devices.strip(",").split(",")
    return devices if isinstance(devices, list) else []


def count_processors(trainer: dict[str, Any]) -> int | None:
    """Return the number of processes that ``devices`` means on a CPU, which has no index; None if a GPU is used.

    Raises:
        InputError: several indices are named on a CPU.
    """
    indices = list_indices(trainer["devices"])
    if not indices or (trainer["accelerator"] != "cpu" and torch.accelerator.is_available()):
        return None
    if len(indices) > 1:
        raise InputError(
            f"--trainer.devices {trainer['devices']}: there is no GPU; --trainer.devices {len(indices)} starts as many "
            "processes"
        )
    return 1


def list_ineffective(typed: Sequence[str], settings: Any, class_sizes: Sequence[int]) -> Iterator[str]:
    """Yield a line for each option that was set, or concerns another network, and has no effect beside the others.

    Args:
        typed: words of the command.
        settings: every option.
        class_sizes: training images of each class.
    """
    model, data, trainer = settings["model"], settings["data"], settings["trainer"]
    constant, test = model["schedule"] == "constant", data["held_out"] == "test"
    unvalidated = trainer["limit_val_batches"] == 0
    cifar, folder = data["dataset"] in ("cifar10", "cifar100"), data["dataset"] == "folder"
    five, alone = model["network"] == FIVE_BLOCK, trainer["devices"] in (1, "1")
    ends_early, small = trainer["callbacks"] or trainer["max_time"], data["image_size"] <= SIZE
    equal = f"every class has {class_sizes[0]:,} training images" if len({*class_sizes}) == 1 else ""
    reasons = {
        "model.warmup": "the schedule is constant" if constant else "",
        "model.momentum": "" if model["optimizer"] in ("sgd", "muon") else f"the optimizer is {model['optimizer']}",
        "model.class_weights": equal if model["class_weights"] == "balanced" else "",
        "model.gate_rate": "" if five else f"{model['network']} has no gates",
        "model.temperature": "" if model["gate"] == "softmax" else f"the gate is {model['gate']}",
        "model.stem_stride": "" if model["stem_kernel"] else "there is no stem",
        "model.stem_bias": "" if model["stem_kernel"] else "there is no stem",
        "model.dropout": "" if model["hidden"] else "there is no hidden layer",
        "model.global_pool": "five poolings leave one pixel" if all(model["pools"]) and small else "",
        "data.balanced": equal,
        "data.num_workers": "the images are in memory" if data["in_memory"] is True or not folder else "",
        "data.val_size": "the test set is held out" if test else "",
        "data.split_seed": "the test set is held out" if test and not folder else "",
        "data.size_shares": "there is one size" if len(data["sizes"] or [0]) == 1 else "",
        "data.url": "" if cifar else f"the dataset is {data['dataset']}",
        "data.archive": "" if cifar else f"the dataset is {data['dataset']}",
        "data.non_square": "" if folder else f"the images of {data['dataset']} are square",
        "data.classes": "" if folder else f"the dataset is {data['dataset']}",
        "data.root": "the dataset is in scikit-learn" if data["dataset"] == "digits" else "",
        "trainer.check_val_every_n_epoch": "nothing is validated" if unvalidated else "",
        "trainer.val_check_interval": "nothing is validated" if unvalidated else "",
        "trainer.use_distributed_sampler": "the data module divides the batches",
        "trainer.gradient_clip_algorithm": "" if trainer["gradient_clip_val"] else "no gradient is clipped",
        "trainer.min_epochs": "" if ends_early else "nothing ends training early",
        "trainer.min_steps": "" if ends_early else "nothing ends training early",
        "trainer.limit_test_batches": "it goes with test",
        "trainer.limit_predict_batches": "it goes with predict",
        "trainer.sync_batchnorm": "batch norm uses the global batch anyway" if alone or five else "",
        "trainer.reload_dataloaders_every_n_epochs": "the data module draws the batches of each epoch",
        "trainer.default_root_dir": "the run's files go to --run_dir",
        "trainer.model_registry": "nothing is uploaded to it",
    }
    words = list_set_options(typed, complete=False)
    for name, why in reasons.items():
        if name in words and why:
            yield f"--{name} has no effect: {why}"
    if settings["recipe"] == "finetune" and settings["init_from"] is None and settings["resume"] is None:
        yield "the rates of finetune suit trained weights, these are new: add --init_from pretrained"
    if not five and (ignored := list_ignored(model)):
        yield f"network {model['network']} ignores options of {FIVE_BLOCK}: {', '.join(ignored)}"
    if trainer["enable_checkpointing"] is False:
        yield "--trainer.enable_checkpointing false: nothing is saved; if training stops, it starts from the beginning"
    if data["balanced"] and model["class_weights"] == "balanced" and not equal:
        yield "--data.balanced draws rare classes more often and --model.class_weights weighs them: set one of them"
    size, last = data["image_size"], (data["sizes"] or [data["image_size"]])[-1]
    if last < size and "data.image_size" in words:
        scaled = [size * one // last for one in data["sizes"]]
        yield f"the last training images have {last}x{last} pixels, tested ones {size}x{size}: --data.sizes '{scaled}'"
    if "data.held_out" in words and not test and unvalidated:
        yield "images are held out and never evaluated: --trainer.limit_val_batches is 0; 1.0 evaluates them"


def list_ignored(model: Any) -> list[str]:
    """Return the names of the arguments of `FiveBlockNet` that differ from its defaults; other networks ignore them."""
    defaults = {name: one.default for name, one in signature(FiveBlockNet).parameters.items() if name != "num_classes"}
    given = {name: model.get(name, default) for name, default in defaults.items()}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return [name for name, default in defaults.items() if plain[name] != default]


def check_monitors(callbacks: Sequence[Callback], held_out: str, validates: bool) -> None:
    """Raise `InputError` if a callback takes the worst value for the best, or watches a metric that nothing logs.

    A callback of the user may log any.
    """
    if any(not type(one).__module__.startswith(("lightning.", "lightning_cifar.")) for one in callbacks):
        return
    logged = [f"train/{kind}" for kind in ("loss", "accuracy")]
    logged += [f"{held_out}/{kind}" for kind in ("loss", "accuracy")] if validates else []
    known = {*logged, *(f"train/{kind}_{over}" for kind in ("loss", "accuracy") for over in ("step", "epoch"))}
    for one in callbacks:
        monitor = getattr(one, "monitor", None) if isinstance(one, EarlyStopping | ModelCheckpoint) else None
        if monitor and monitor not in known and not monitor.startswith(("gates/", "time/", "lr-")):
            raise InputError(f"{type(one).__name__} monitors {monitor}, which is never logged: {', '.join(logged)} are")
        wanted = "max" if "accuracy" in str(monitor) else "min"
        if monitor in known and one.mode != wanted:  # type: ignore[attr-defined]  # one of these classes
            raise InputError(f"{type(one).__name__} takes the worst {monitor} for the best: set its mode to {wanted}")


def check_checkpoints(callbacks: Sequence[Callback], starts: bool) -> None:
    """Raise `InputError` if a ModelCheckpoint would write over the checkpoint that every run has.

    Or if the run ``starts`` and Lightning would continue from the checkpoint of an earlier exception.
    """
    for one in callbacks:
        if isinstance(one, OnExceptionCheckpoint) and starts and os.path.exists(one.ckpt_path):
            raise InputError(f"training would start from {one.ckpt_path} of an earlier run: delete it")
        if isinstance(one, ModelCheckpoint) and not one.dirpath and (one.save_last or one.filename == "last"):
            raise InputError(
                "ModelCheckpoint would write checkpoints/last.ckpt, which every run has anyway: leave save_last out, "
                "or name another filename or dirpath"
            )
