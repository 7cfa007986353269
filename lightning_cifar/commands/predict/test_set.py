"""``predict`` without ``--images``: predictions of the test images, as ``predictions.csv``."""

from typing import Any

import torch

from lightning_cifar.errors import InputError
from lightning_cifar.evaluate.test_results import PREDICTIONS, write_predictions
from lightning_cifar.run.job import Job, check_limit, choose_precision, load_data, load_weights
from lightning_cifar.run.trainer import open_run


def predict(job: Job) -> None:
    load_data(job)
    check_limit(job, "limit_predict_batches")
    load_weights(job)
    choose_precision(job)
    with open_run(job) as run:
        if run.trainer.world_size > 1:
            raise InputError("predict works in one process: --trainer.devices 1")
        batches: Any = run.trainer.predict(job.model, job.data)
        probabilities = torch.cat(batches)
        labels = job.data.test.labels[: len(probabilities)]
        file = run.directory / PREDICTIONS
        write_predictions(file, probabilities, labels, job.data.dataset.class_names, job.data.dataset.test_files)
    count, every = len(probabilities), len(job.data.test)
    print(f"predictions: {file}" + (f", of {count:,} of {every:,} test images" if count < every else ""))
