"""Whole trainings on a GPU by the command line, and the same steps without the Trainer; stages of `gpu.py`."""

import contextlib
import csv
import io
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Trainer
from measurement import KEPT_CHARACTERS, Measurement
from training_step import DEVICE, BareStep, build, wait

from lightning_cifar import main
from lightning_cifar.data.sizes import find_size
from lightning_cifar.run.settings.options import RECIPES
from lightning_cifar.train.replay import replay_augmentation
from lightning_cifar.train.schedule import build_triangle
from lightning_cifar.train.whitening import whiten_stems

RECIPE = "gpu94"
AUTOTUNED = ["--trainer.benchmark", "true"]  # cuDNN chooses its algorithms by trying them
SEEDS = range(1, 8)  # after seed 0
FIT_SECONDS = {RECIPE: 15, "fast": 12, "report": 80}  # that a replayed fit and its test may take
TINY = {"widths": [8, 8, 16, 16, 16], "gate_rate": 1e-4}
TINY_BATCH, TINY_STEPS = 40, 6
TINY_FIT = ["--data.batch_size", str(TINY_BATCH), "--model.widths", "[8,8,16,16,16]", "--model.gate_rate", "1e-4"]
TINY_FIT += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", str(TINY_STEPS)]
TINY_FIT += ["--trainer.limit_val_batches", "1", "--trainer.log_every_n_steps", "2", "--trainer.precision", "32-true"]
TINY_TEST = ["--data.eval_batch_size", "40", "--trainer.limit_test_batches", "1"]


def measure_fits(measurement: Measurement) -> None:
    """Train `gpu94` replayed, by the same steps without the Trainer, and eagerly."""
    measurement.attempt(*name_fit(measurement, seed=0))
    measurement.attempt(f"{RECIPE}, bare loop", partial(run_bare_loop, measurement))
    measurement.attempt(*name_fit(measurement, seed=0, replay=False))


def measure_seeds(measurement: Measurement) -> None:
    """Train `gpu94` with further seeds, as many as there is time for."""
    for seed in SEEDS[:1] if measurement.options.dry else SEEDS:
        if measurement.left() < FIT_SECONDS[RECIPE]:
            break
        measurement.attempt(*name_fit(measurement, seed))


def measure_recipes(measurement: Measurement) -> None:
    """Train `report` and three seeds of `fast` as the recipes are."""
    fits = [("report", 0), ("fast", 0), ("fast", 1), ("fast", 2)]
    for recipe, seed in fits[:1] if measurement.options.dry else fits:
        if measurement.left() < FIT_SECONDS[recipe]:
            break
        measurement.attempt(f"{recipe}, seed {seed}", partial(fit_and_test, measurement, recipe, seed, AUTOTUNED))


def name_fit(measurement: Measurement, seed: int, replay: bool = True) -> tuple[str, Any]:
    """Return name and measurement of a fit of `gpu94`."""
    name = f"{RECIPE}, {'replayed' if replay else 'eager'}, seed {seed}"
    return name, partial(fit_and_test, measurement, RECIPE, seed, ["--model.replay", str(replay).lower()])


def fit_and_test(measurement: Measurement, recipe: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Train and test as a user would, after a first short training in this process."""
    place = ["--data.dataset", measurement.options.dataset, "--data.root", measurement.options.root]
    command = ["fit", "--recipe", recipe, "--seed_everything", str(seed), *options]
    tiny, tiny_test = (TINY_FIT, TINY_TEST) if measurement.options.dry else ([], [])
    if not measurement.warm:
        measurement.warm = True
        with tempfile.TemporaryDirectory() as directory:
            call([*command, *place, *tiny, "--trainer.max_epochs", "1", "--run_dir", directory])
        measurement.report("  warmed up")
    with tempfile.TemporaryDirectory() as directory:
        run, tested = Path(directory, "run"), Path(directory, "test")
        printed = call([*command, *place, *tiny, "--run_dir", str(run)])
        row = {"command": " ".join(["python -m lightning_cifar", *command]), "seed": seed, **read_fit(run)}
        checkpoint = str(run / "checkpoints/last.ckpt")
        call(["test", "--ckpt_path", checkpoint, *place, *tiny_test, "--run_dir", str(tested)])
        return row | read_test(tested) | {"warnings": [line for line in printed if line.startswith("warning")]}


def call(words: list[str]) -> list[str]:
    """Run a command of this package in this process and return the lines that it prints.

    Raises:
        RuntimeError: the command fails.
        SystemExit: a signal ends it.
    """
    with io.StringIO() as output:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = main(words)
        printed = output.getvalue()
    wait()
    if status > 128:
        raise SystemExit(status)
    if status:
        raise RuntimeError(f"{words[0]}: exit status {status}\n{printed[-KEPT_CHARACTERS // 2 :]}")
    return printed.splitlines()


def read_fit(run: Path) -> dict[str, Any]:
    """Return the times of a training, in seconds; ``fit_seconds`` is from its first epoch's start to its end."""
    record = json.loads((run / "run.json").read_text())
    with (run / "metrics.csv").open(newline="") as opened:
        epochs = [float(row["time/epoch_seconds"]) for row in csv.DictReader(opened) if row.get("time/epoch_seconds")]
    timings = record["timings"]
    return {
        "precision": record["precision"],
        "steps": timings["steps"],
        "fit_seconds": timings.get("fit_seconds", timings["total_seconds"]),
        "total_seconds": timings["total_seconds"],
        "epoch_seconds": epochs,
        "train_loss": record["metrics"].get("train/loss_epoch"),
    }


def read_test(tested: Path) -> dict[str, Any]:
    record = json.loads((tested / "run.json").read_text())
    metrics = record["metrics"]
    return {
        "test_seconds": record["timings"]["total_seconds"],
        "accuracy": metrics["test/accuracy"],
        "accuracy_without_tta": metrics.get("test/accuracy_without_tta", metrics["test/accuracy"]),
    }


def run_bare_loop(measurement: Measurement) -> dict[str, Any]:
    """Train `gpu94` by replayed steps in a loop: no metrics, checkpoints or figure."""
    dry = measurement.options.dry
    recipe = yaml.safe_load(RECIPES[RECIPE].read_text())
    place = {"dataset": measurement.options.dataset, "root": measurement.options.root}
    data, model = build(RECIPE, {**place, **({"batch_size": TINY_BATCH} if dry else {})}, TINY if dry else {})
    data.setup()
    model.adopt(data)
    whiten_stems(model.five_block_nets, data.train, model.normalise)
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer, trainer.training = trainer, True  # of which the data module reads device and epoch
    loader = data.train_dataloader()
    epochs = 1 if dry else recipe["trainer"]["max_epochs"]
    batches = TINY_STEPS if dry else len(loader)
    factor = build_triangle(epochs * batches, model.hparams["warmup"] or 0.0)
    step = BareStep(RECIPE, model, replay=True)
    rates = [group["lr"] for group in step.optimizer.param_groups]
    taken, sizes = 0, (data.hparams["sizes"] or [32], data.hparams["size_shares"])
    data.find_size = lambda: find_size(*sizes, taken, epochs * batches)  # type: ignore[method-assign]
    if DEVICE.type == "cuda":
        data.augment = replay_augmentation(data)
    wait()
    started = time.perf_counter()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        trainer.fit_loop.epoch_progress.current.processed = epoch
        for _, loaded in zip(range(batches), loader, strict=False):
            moved = data.transfer_batch_to_device(loaded, DEVICE, 0)
            images, labels = data.on_after_batch_transfer(moved, 0)
            for group, rate in zip(step.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor(taken)
            loss = step(images, labels)
            taken += 1
    wait()
    return {"steps": taken, "seconds": time.perf_counter() - started, "loss": float(loss)}
