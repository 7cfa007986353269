"""The checkpoints of a run: which of its files is the newest, and which of them a checkpoint may name."""

import os
import warnings
from pathlib import Path
from typing import Any

from lightning_cifar.errors import InputError
from lightning_cifar.files import write_whole
from lightning_cifar.train.checkpoint import load_checkpoint

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NEEDED = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "callbacks",
    "global_step",
    "pytorch-lightning_version",
)


def link_best(last: Path) -> None:
    """Make ``best.ckpt`` another name of the file ``last.ckpt``, or a copy where files cannot have two names."""
    best, new = last.with_name(BEST), last.with_name(f".{BEST}.partial")
    if best.exists() and best.samefile(last):
        return
    new.unlink(missing_ok=True)  # of a process that was killed here
    try:
        os.link(last, new)
        os.replace(new, best)
    except OSError:
        write_whole(best, last.read_bytes())


def keep_own_files(state: dict[str, Any], directory: Path, resumes: bool) -> dict[str, Any]:
    """Return the paths and scores of a ModelCheckpoint's state for the files of the same names in ``directory``.

    Lightning deletes files by these paths, and drops all scores if the directory was moved or is named in another way.

    Args:
        state: out of a checkpoint.
        directory: of the callback.
        resumes: the checkpoint is one of this run, so that a path without such a file is worth a warning.
    """
    found = {}
    for path in {state["best_model_path"], state["kth_best_model_path"], *state["best_k_models"]} - {""}:
        file = directory / Path(path).name
        if file.is_file() and not file.is_symlink() and file.name not in (LAST, PREVIOUS):
            found[path] = str(file)
        elif resumes:
            warnings.warn(f"{path}, named by the checkpoint, is ignored: {directory} has no such file", stacklevel=2)
    return {
        "dirpath": str(directory) if resumes else state.get("dirpath"),
        "best_k_models": {found[path]: score for path, score in state["best_k_models"].items() if path in found},
        "best_model_score": state["best_model_score"] if state["best_model_path"] in found else None,
        **{name: found.get(state[name], "") for name in ("best_model_path", "kth_best_model_path", "last_model_path")},
    }


def existing_checkpoints(directory: Path) -> list[Path]:
    """Return which of ``last.ckpt`` and ``previous.ckpt`` exist, the newer first."""
    return [file for name in (LAST, PREVIOUS) if (file := directory / name).exists()]


def load_newest(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest readable checkpoint and its content, with a warning for a damaged one; None if none exists.

    Raises:
        InputError: all are damaged.
    """
    files, errors = existing_checkpoints(directory), []
    for file in files:
        try:
            content = load_checkpoint(file)
            if missing := [name for name in NEEDED if name not in content]:
                raise InputError(f"{file} is damaged or no checkpoint of this package (it has no {missing[0]})")
            return file, content
        except InputError as error:
            errors.append(str(error))
            if file != files[-1]:
                warnings.warn(f"{error}; trying the checkpoint before", stacklevel=2)
    if files:
        raise InputError(f"{directory} has no readable checkpoint: {'; '.join(errors)}")
    return None
