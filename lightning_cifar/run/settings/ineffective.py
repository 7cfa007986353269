"""Options without effect: a line for each that was set."""

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.square import SIZE
from lightning_cifar.errors import format_count
from lightning_cifar.model.named import FIVE_BLOCK
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.run.settings.configurations import list_set_options


def list_ineffective(typed: Sequence[str], settings: Any, module: CIFAR10DataModule) -> Iterator[str]:
    """Yield a line for each option that was set, or concerns another network, and has no effect beside the others.

    The data ``module`` is set up.
    """
    model, data, trainer = settings["model"], settings["data"], settings["trainer"]
    constant, test = model["schedule"] == "constant", data["held_out"] == "test"
    unvalidated = trainer["limit_val_batches"] == 0
    cifar, folder = data["dataset"] in ("cifar10", "cifar100"), data["dataset"] == "folder"
    five, alone = model["network"] == FIVE_BLOCK, trainer["devices"] in (1, "1")
    ends_early, small = trainer["callbacks"] or trainer["max_time"], data["image_size"] <= SIZE
    poolings = sum(model["pools"]) if "pool" in model["order"] else 0
    held_out = "the test set is held out" if test else "" if module.dataset.val is None else "the data has a part val"
    class_sizes = module.train.labels.bincount().tolist()
    equal = f"every class has {format_count(class_sizes[0], 'training image')}" if len({*class_sizes}) == 1 else ""
    reasons = {
        "model.warmup": "the schedule is constant" if constant else "",
        "model.momentum": "" if model["optimizer"] in ("sgd", "muon") else f"the optimizer is {model['optimizer']}",
        "model.class_weights": equal if model["class_weights"] == "balanced" else "",
        "model.gate_rate": find_why_no_gates(model),
        "model.temperature": "" if model["gate"] == "softmax" else f"the gate is {model['gate']}",
        "model.stem_stride": "" if model["stem_kernel"] else "there is no stem",
        "model.stem_bias": "" if model["stem_kernel"] else "there is no stem",
        "model.dropout": "" if model["hidden"] else "there is no hidden layer",
        "model.global_pool": "five poolings leave one pixel" if poolings == 5 and small else "",
        "data.balanced": equal,
        "data.num_workers": "the images are in memory" if hasattr(module.train, "images") else "",
        "data.val_size": held_out,
        "data.split_seed": "" if (module.dataset.split or "").startswith("split_seed") else held_out,
        "data.size_shares": "there is one size" if len(data["sizes"] or [0]) == 1 else "",
        "data.url": "" if cifar else f"the dataset is {data['dataset']}",
        "data.archive": "" if cifar else f"the dataset is {data['dataset']}",
        "data.non_square": "" if folder else f"the images of {data['dataset']} are square",
        "data.classes": "training images name the classes" if folder else f"the dataset is {data['dataset']}",
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
    if trainer["barebones"]:
        yield "--trainer.barebones true: nothing is logged or saved; if training stops, it starts from the beginning"
    elif trainer["enable_checkpointing"] is False:
        yield "--trainer.enable_checkpointing false: nothing is saved; if training stops, it starts from the beginning"
    if data["balanced"] and model["class_weights"] == "balanced" and not equal:
        yield "--data.balanced draws rare classes more often and --model.class_weights weighs them: set one of them"
    size, last = data["image_size"], (data["sizes"] or [data["image_size"]])[-1]
    if last < size and "data.image_size" in words:
        scaled = [size * one // last for one in data["sizes"]]
        yield f"the last training images have {last}x{last} pixels, tested ones {size}x{size}: --data.sizes '{scaled}'"
    if "data.held_out" in words and not test and unvalidated:
        yield "images are held out and never evaluated: --trainer.limit_val_batches is 0; 1.0 evaluates them"


def find_why_no_gates(model: Any) -> str:
    """Return why no gate is trained; empty if gates are."""
    if model["network"] != FIVE_BLOCK:
        return f"{model['network']} has no gates"
    return "the gate is static" if model["gate"] == "static" else ""


def list_ignored(model: Any) -> list[str]:
    """Return the names of the arguments of `FiveBlockNet` that differ from its defaults; other networks ignore them."""
    defaults = {name: one.default for name, one in signature(FiveBlockNet).parameters.items() if name != "num_classes"}
    given = {name: model.get(name, default) for name, default in defaults.items()}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return [name for name, default in defaults.items() if plain[name] != default]
