"""``test``: evaluate a checkpoint on the test images: a table, ``test.json`` and its plots."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.errors import InputError
from lightning_cifar.evaluate.corruptions import evaluate_corruptions
from lightning_cifar.evaluate.evaluation import evaluate_test
from lightning_cifar.evaluate.subsets import TEST_IMAGES, evaluate_without, read_near_duplicates
from lightning_cifar.evaluate.tables import format_table
from lightning_cifar.evaluate.test_results import (
    FIGURE,
    LOGITS,
    MISTAKES,
    RESULT,
    identify_checkpoint,
    write_evaluation,
    write_logits,
)
from lightning_cifar.files import compute_digest
from lightning_cifar.run.job import Job, check_limit, choose_precision, load_data, load_weights
from lightning_cifar.run.records.stored_files import DAMAGED, RECORD, read_json
from lightning_cifar.run.records.wandb import log_test
from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
from lightning_cifar.run.settings.parsing import Precision
from lightning_cifar.run.trainer import Run, open_run
from lightning_cifar.run.weights import SPLIT


def test(job: Job) -> None:
    load_data(job)
    if job.settings["corruptions"] and not isinstance(job.data.test, ImageSet):
        raise InputError("--corruptions needs the images in memory: --data.in_memory true")
    if job.settings["corruptions"] and not is_complete(job):
        raise InputError("--corruptions needs all test images: remove --trainer.limit_test_batches or fast_dev_run")
    check_split(job)
    check_held_out(job)
    check_limit(job, "limit_test_batches")
    digest = compute_digest(load_weights(job).file)  # before the run has a directory
    choose_precision(job)
    duplicates = read_duplicates(job)
    with open_run(job) as run:
        if run.trainer.world_size > 1 and not is_complete(job):
            raise InputError("--trainer.limit_test_batches works in one process: --trainer.devices 1")
        assert job.ckpt_path is not None
        identity = identify_checkpoint(job.ckpt_path, run.directory, digest)
        run.trainer.test(job.model, job.data, verbose=False)
        if not run.trainer.is_global_zero:
            return
        trainer = make_quiet_trainer(job, run, job.trainer["precision"])
        result = identity | evaluate_test(job.model, job.data, trainer)
        if duplicates:
            logits, _, labels = job.model.test_outputs.compute()
            result["without_near_duplicates"] = evaluate_without(duplicates, logits, labels)
        print(format_table(result), flush=True)
        if job.settings["corruptions"]:
            print("accuracy without TTA under corruptions of severity 1 to 5:", flush=True)
            result["corruptions"] = evaluate_corruptions(job.model, job.data, trainer)
        keep_result(job, run, result)
    print(f"table: {run.directory / RESULT}\nplots: {run.directory / FIGURE}")
    if result["mistakes"]:
        print(f"mistakes: {run.directory / MISTAKES}")
    print(f"logits: {run.directory / LOGITS}")


def check_split(job: Job) -> None:
    """Print a warning if a folder without test images has changed in training or since: others may be tested now."""
    assert job.ckpt_path is not None
    here = str(job.data.root)
    try:
        record = read_json(job.ckpt_path.parent.parent / RECORD)
        records = [one.get("data") or {} for one in (record, *record.get("resumed", []))]
        # Without a split, the folder had test images: only a change of that same folder matters.
        trained = {data.get("split") for data in records if data.get("split") or data.get("root") == here}
    except (OSError, *DAMAGED):  # the run is not here, or of another version
        return
    if job.data.dataset.split and trained - {job.data.dataset.split}:
        print(
            f"warning: {job.data.root} has changed since training began: tested images may have been trained on",
            flush=True,
        )


def check_held_out(job: Job) -> None:
    """Print a warning for each option by which validation images differ from those that training held out."""
    assert job.ckpt_path is not None
    if job.data.hparams["held_out"] == "test" or job.data.dataset.val is not None:
        return
    trained = checkpoint_config(job.ckpt_path)["data"]
    for name in ("held_out", *SPLIT):
        if trained.get(name, value := job.data.hparams[name]) != value:
            differs = f"--data.{name} {value}, in training {trained[name]}"
            print(f"warning: {differs}: validation images may have been trained on", flush=True)


def read_duplicates(job: Job) -> list[int]:
    """Return the positions of the images that ``--near_duplicates`` leaves out; none without this option."""
    if not (file := job.settings["near_duplicates"]):
        return []
    positions = read_near_duplicates(Path(file))
    published = job.data.hparams["dataset"] in ("cifar10", "cifar100") and len(job.data.test) == TEST_IMAGES
    if not (published and is_complete(job)):
        raise InputError(f"--near_duplicates needs all {TEST_IMAGES:,} test images of CIFAR-10 or CIFAR-100")
    return positions


def is_complete(job: Job) -> bool:
    """Return whether all test images are tested; a limit of 1 is a batch, 1.0 all of them."""
    limit = job.trainer["limit_test_batches"]
    return not job.trainer["fast_dev_run"] and (limit is None or (isinstance(limit, float) and limit == 1))


def keep_result(job: Job, run: Run, result: dict[str, Any]) -> None:
    """Write ``test.json``, its plots and ``predictions.npz``, and show them on W&B."""
    images = None
    if positions := [mistake["index"] for mistake in result["mistakes"]]:
        images = job.data.test[torch.tensor(positions)].sample(len(positions)).images.permute(0, 2, 3, 1).cpu().numpy()
    write_logits(run.directory / LOGITS, job.model.test_outputs.compute(), job.data.dataset.class_names)
    write_evaluation(run.directory, result, images)  # last, for it also names the test in the tested run
    if run.wandb is not None:
        log_test(run.wandb, result, images, run.directory / FIGURE)


def make_quiet_trainer(job: Job, run: Run, precision: Precision | None = None) -> Trainer:
    """Return a Trainer that evaluates on the same device, in float32 by default, and writes nothing."""
    device = run.trainer.strategy.root_device
    return Trainer(
        accelerator=job.settings["trainer"]["accelerator"],
        devices=1 if device.index is None else [device.index],
        precision=precision,  # type: ignore[arg-type]  # `auto` was replaced
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
