"""Which option a user means who typed another name. Imports no torch."""

from collections.abc import Collection
from difflib import get_close_matches

ALIASES = {  # names of options, by what users type for them
    name: meant
    for meant, names in {
        "learning_rate": "lr",
        "weight_decay": "wd",
        "batch_size": "batch bs",
        "max_epochs": "epochs num_epochs n_epochs",
        "devices": "gpus num_gpus",
        "network": "arch architecture backbone",
        "accelerator": "device",
        "num_workers": "workers",
        "image_size": "imgsz img_size",
        "sizes": "small_epochs small_size",  # of version 0.1.0
        "root": "data_dir data_path",
        "seed_everything": "seed",
        "ckpt_path": "ckpt checkpoint weights",
        "init_from": "pretrained",
        "run_dir": "output_dir save_dir log_dir name",
        "images": "image input source",
        "output": "out",
        "n": "seeds",
        "n_trials": "trials",
    }.items()
    for name in names.split()
}
USES = {  # options of single commands, by what they go with
    "predict --images PATH; the directory of a run is --run_dir": "output",
    "predict --images PATH": "top format explain",
    "predict": "images",
    "test --ckpt_path FILE": "corruptions near_duplicates",
    "validate --ckpt_path FILE": "verbose",
    "fit --wandb": "wandb_checkpoints",
    "repeat": "n first_seed compare",
    "sweep": "search n_trials no_pruning",
    "serve": "host port",
    "export": "int8",
}
USE = {name: use for use, names in USES.items() for name in names.split()}


def find_nearest(name: str, known: Collection[str]) -> list[str]:
    """Return the known option that a user means, in a list; an empty one if no name is near."""
    name = name.replace("-", "_")
    meant = ALIASES.get(name, "")
    return [meant] if meant in known else get_close_matches(name, known, 1)


def suggest(name: str, own: Collection[str], every: Collection[str]) -> str:
    """Return the option whose last part a user means; empty if none is near.

    Args:
        name: as typed.
        own: options of the same group, which are preferred.
        every: options of every group.
    """
    last = name.rpartition(".")[2].lower().replace("-", "_")
    near, ends = ({one.rpartition(".")[2]: one for one in options} for options in (own, [*every, *own]))
    meant = ALIASES.get(last, last)
    found = [meant] if meant in ends else get_close_matches(last, near, 1) or get_close_matches(last, ends, 1, 0.8)
    return ends[found[0]] if found else ""
