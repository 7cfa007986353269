"""``fit``: train a recipe, or resume a run that was stopped. What happens, in order, is `fit`."""

import shlex
from collections.abc import Sequence

from lightning import Callback

from lightning_cifar.run.curves import METRICS
from lightning_cifar.run.figure import CURVES
from lightning_cifar.run.job import Job, choose_precision, load_data
from lightning_cifar.run.trainer import Run, open_run, train
from lightning_cifar.run.wandb import log_curves


def fit(job: Job, callbacks: Sequence[Callback] = ()) -> None:
    """Train, or resume, and print where everything is; ``callbacks`` join those of the settings."""
    load_data(job)  # first, so that bad data leaves no directory behind
    choose_precision(job)
    with open_run(job, callbacks=callbacks) as run:
        print(f"run directory: {run.directory}", flush=True)
        try:
            train(job, run)
            if run.checkpoint and run.trainer.global_step == run.steps_before:
                print("nothing left to train: this run is complete; raise --trainer.max_epochs to train on")
        finally:  # after Ctrl-C too
            list_files(job, run)


def list_files(job: Job, run: Run) -> None:
    """Print where curves, metrics and the checkpoint are, and how it is tested; upload curves and checkpoint to W&B."""
    for kind, name in (("curves", CURVES), ("metrics", METRICS)):
        if (run.directory / name).exists():
            print(f"{kind}: {run.directory / name}")
    best, last = run.saved("best"), run.saved("last")
    # Without validation images, best.ckpt is the same file as last.ckpt.
    if checkpoint := (best if job.data.hparams["held_out"] == "val" else last) or best or last:
        print(f"checkpoint: {checkpoint}")
        root = job.data.hparams["root"]  # never taken from a checkpoint
        place = f" --data.root {shlex.quote(root)}" if root else ""
        print(f"test it: python -m lightning_cifar test --ckpt_path {checkpoint}{place}")
    if run.wandb is not None:
        if (run.directory / CURVES).exists():
            log_curves(run.wandb, run.directory / CURVES)
        if checkpoint and job.settings["wandb_checkpoints"]:
            run.wandb.send_checkpoint(checkpoint)
