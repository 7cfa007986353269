"""One seed of ``repeat``: trained as ``fit`` does and tested as ``test`` does, in the directory ``seed<n>``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lightning_cifar.callbacks import find_callbacks
from lightning_cifar.commands.test import keep_result, make_quiet_trainer
from lightning_cifar.data.dataset import Dataset
from lightning_cifar.evaluate.evaluation import evaluate_test
from lightning_cifar.evaluate.test_results import PREDICTIONS, identify_checkpoint, write_predictions
from lightning_cifar.run.job import Job, parse
from lightning_cifar.run.records.run_json import RunRecord
from lightning_cifar.run.records.throughput import Throughput
from lightning_cifar.run.series import list_resume_options, prepare, train_in_series
from lightning_cifar.run.trainer import Run, open_run

SEED = "seed"  # name of a run in this series
OWN = {"seed_everything"}  # options that differ in it
RECORDED = ("recipe", "precision", "git_commit", "versions", "device", "data")  # fields of run.json in results


@dataclass
class Shared:
    """Objects that the seeds of a process reuse: the dataset, and a network that is compiled."""

    source: Dataset | None = None
    network: nn.Module | None = None


def run_seed(args: Sequence[str], typed: Sequence[str], seed: int, repeat_dir: Path, shared: Shared) -> dict[str, Any]:
    """Train and test one seed, or resume it, and return its result; ``shared`` is set for the next seed.

    ``args`` and ``typed`` are those of `repeat`, without seed and run directory.
    """
    directory, seed_option = repeat_dir / f"{SEED}{seed}", ["--seed_everything", str(seed)]
    job = parse([*args, *seed_option, *list_resume_options(directory)], ["fit", *typed, *seed_option])
    reuse(job, shared)
    prepare(job, repeat_dir, SEED, "distribute the seeds by --first_seed", OWN)
    with open_run(job, directory, epoch_rows=False) as run:
        shared.source = job.data.loaded
        if job.settings["model"]["compile"]:  # others are new for each seed: they may hold more than weights
            shared.network = job.model.network
        train_in_series(job, run)
        return test_seed(job, run, seed)


def reuse(job: Job, shared: Shared) -> None:
    """Put the shared objects in place of the new ones of ``job``; the network keeps the new weights."""
    job.data.loaded = shared.source
    if shared.network is not None:
        shared.network.load_state_dict(job.model.network.state_dict())
        job.model.network = shared.network.train()  # frozen parts were in evaluation mode


def test_seed(job: Job, run: Run, seed: int) -> dict[str, Any]:
    """Test the final weights once, in float32, write the evaluation, and return the result of the seed."""
    record = find_callbacks(run.trainer, RunRecord)[0].record
    record["data"].pop("root")  # results are published; the path is private
    make_quiet_trainer(job, run).test(job.model, job.data, verbose=False)
    evaluation = evaluate_test(job.model, job.data, make_quiet_trainer(job, run))
    checkpoint = run.find_last()
    identity = identify_checkpoint(checkpoint, run.directory) if checkpoint else {}
    keep_result(job, run, identity | evaluation)
    logits, _, labels = job.model.test_outputs.compute()
    data = job.data.dataset
    probabilities = logits.softmax(1)
    write_predictions(run.directory / PREDICTIONS, probabilities, labels, data.class_names, data.test_files)
    return {
        "seed": seed,
        "directory": run.directory.name,
        **{name: evaluation[name] for name in ("accuracy", "accuracy_without_tta", "loss", "calibration_error")},
        "train_seconds": find_callbacks(run.trainer, Throughput)[0].seconds,
        **{name: record["timings"][name] for name in ("fit_seconds", "steps")},
        "run": {name: record[name] for name in RECORDED},
    }
