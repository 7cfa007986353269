"""``validate``: evaluate a checkpoint on the validation images."""

from lightning_cifar.commands.test import check_held_out
from lightning_cifar.run.job import Job, check_limit, choose_precision, load_data, load_weights
from lightning_cifar.run.trainer import open_run


def validate(job: Job) -> None:
    load_data(job)
    check_held_out(job)
    check_limit(job, "limit_val_batches")
    load_weights(job)
    choose_precision(job)
    with open_run(job) as run:
        (result,) = run.trainer.validate(job.model, job.data, verbose=False)
    if job.settings["verbose"]:
        print("\n".join(f"{name}  {value:.4f}" for name, value in result.items()))
