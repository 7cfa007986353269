"""The checkpoints of a run: which of its files is the newest, and which of them a checkpoint may name."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from lightning_cifar.errors import InputError, check_range, format_count
from lightning_cifar.files import write_whole
from lightning_cifar.run.records.run_json import count_trained_steps
from lightning_cifar.run.settings.shell import quote_path
from lightning_cifar.train.checkpoint import load_checkpoint

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NEEDED = {  # what Lightning reads of a checkpoint
    "state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict,
    "epoch": int, "global_step": int, "pytorch-lightning_version": str,
}  # fmt: skip


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
    """Return the paths and scores of a ModelCheckpoint's state for the same files in ``directory``.

    Lightning deletes files by these paths, and drops all scores, with a warning, if the directory was moved or is named
    in another way. A run that continues from another one's checkpoint has no such files: its best epoch is its own.
    ``resumes``: the checkpoint is one of this run, so that a path without such a file is worth a line.
    """
    found, before = {}, str(state.get("dirpath"))
    for path in {state["best_model_path"], state["kth_best_model_path"], *state["best_k_models"]} - {""}:
        below = Path(path).is_relative_to(before)  # {val/accuracy} in a file name makes a directory
        name = Path(path).relative_to(before) if below else Path(Path(path).name)
        file = directory / name
        own = file.resolve() == directory.resolve() / name  # no link, and not outside by ".."
        if file.is_file() and own and file.name not in (LAST, PREVIOUS):
            found[path] = str(file)
        elif resumes:
            print(f"ignored: {path}, named by the checkpoint: {directory} has no such file")
    return {
        "dirpath": str(directory),
        "best_k_models": {found[path]: score for path, score in state["best_k_models"].items() if path in found},
        "best_model_score": state["best_model_score"] if state["best_model_path"] in found else None,
        **{name: found.get(state[name], "") for name in ("best_model_path", "kth_best_model_path", "last_model_path")},
    }


def list_checkpoints(directory: Path) -> list[Path]:
    """Return which of ``last.ckpt`` and ``previous.ckpt`` exist, the newer first."""
    return [file for name in (LAST, PREVIOUS) if (file := directory / name).exists()]


def load_newest(directory: Path, saves: bool) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest readable checkpoint and its content, with a warning for a damaged one; None if none exists.

    `InputError` if all are damaged, or were removed after training by a run that ``saves`` some.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: Not a directory")
    files, errors = list_checkpoints(directory), []
    for file in files:
        try:
            if not file.is_file():  # reading a named pipe would wait for ever
                raise InputError(f"{file} is not a file")
            content = load_checkpoint(file)
            if missing := [name for name, kind in NEEDED.items() if not isinstance(content.get(name), kind)]:
                raise InputError(f"{file} is damaged or no checkpoint of this package (it has no {missing[0]})")
            return file, content
        except InputError as error:
            errors.append(str(error))
            if file != files[-1]:
                warnings.warn(f"{error}; trying the checkpoint before", stacklevel=2)
    if files:
        raise InputError(f"{directory} has no readable checkpoint: {'; '.join(errors)}")
    if saves and (steps := count_trained_steps(directory.parent)):
        config = quote_path(directory.parent / "config.yaml")
        raise InputError(
            f"{directory} has no {LAST}, but the run has trained {format_count(steps, 'step')}: put it back, or start "
            f"anew by fit --config {config}"
        )
    return None


def find_last_state(content: dict[str, Any]) -> dict[str, Any]:
    """Return the state of `LastCheckpoint`, or a subclass, in a checkpoint; empty without one."""
    states = (state for state in content["callbacks"].values() if isinstance(state, dict))
    return next((state for state in states if {"lines", "random"} <= state.keys()), {})


def count_stored_lines(file: Path, content: dict[str, Any]) -> int:
    """Return how many lines ``metrics.csv`` had when the checkpoint ``file`` was written; 0 if it does not say."""
    lines = find_last_state(content).get("lines", 0)
    check_range(f"{file} does not fit this run: the number of lines of metrics.csv", lines, "[0, inf)", whole=True)
    return int(lines)


def read_batch_size(file: Path, content: dict[str, Any]) -> int:
    """Return the batch size with which the checkpoint ``file`` was trained, such as one that Lightning has found."""
    size: Any = (content.get("datamodule_hyper_parameters") or {}).get("batch_size")
    check_range(f"{file} does not fit this run: the batch size", size, "[1, inf)", whole=True)
    return int(size)


def check_seed(file: Path, content: dict[str, Any], seed: int) -> None:
    """Raise `InputError` if the random states in a checkpoint are those of a run with another seed."""
    if state := find_last_state(content):
        generator = torch.Generator()
        generator.set_state(state["random"]["torch"])
        if (stored := generator.initial_seed()) != seed:
            raise InputError(f"{file} was written with the seed {stored}, but the run to resume has the seed {seed}")
