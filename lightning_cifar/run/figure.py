"""The report's figure, drawn from ``metrics.csv`` while training goes on."""

import io
import math
import sys
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_cifar.errors import InputError
from lightning_cifar.files import write_whole
from lightning_cifar.run.curves import METRICS, plot_metrics, read_metrics
from lightning_cifar.run.metrics_csv import find_csv_logger

CURVES = "curves.png"
SHARE, SHARE_WATCHED = 0.01, 0.05  # of the time, at most, goes into drawing; the latter in a notebook


class LiveFigure(Callback):
    """Redraws the figure while training: in place in a notebook, as ``curves.png`` beside ``metrics.csv`` elsewhere.

    Args:
        interval: least seconds between two drawings, which are also kept to a hundredth of the time, in a notebook to a
            twentieth; one takes about 0.2 s. The last one is drawn at the end.

    Raises:
        InputError: the trainer has no `CSVLogger`, whose file holds the numbers that are drawn.
    """

    def __init__(self, interval: float = 15.0) -> None:
        self.interval = interval
        self.next_drawing = 0.0
        self.display: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        rehearsal = getattr(trainer, "fast_dev_run", False)  # Lightning takes the loggers away
        if stage == "fit" and not rehearsal and find_csv_logger(trainer) is None:
            raise InputError("LiveFigure draws metrics.csv: give the Trainer a CSVLogger")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() > self.next_drawing:
            self.draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.draw(trainer)

    def draw(self, trainer: Trainer) -> None:
        logger = find_csv_logger(trainer)
        if logger is None or not trainer.is_global_zero or trainer.num_training_batches in (0, float("inf")):
            return
        started = time.monotonic()
        logger.save()
        metrics = Path(logger.log_dir) / METRICS
        if not metrics.exists():  # nothing logged yet
            self.next_drawing = started + min(1.0, self.interval)
            return
        picture = io.BytesIO()
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        plot_metrics(read_metrics(metrics, steps_per_epoch)).savefig(picture, dpi=120, format="png")
        write_whole(metrics.with_name(CURVES), picture.getvalue())
        if in_notebook():
            from IPython.display import Image, display

            image = Image(picture.getvalue(), width=800)
            if self.display is None:
                self.display = display(image, display_id=True)
            else:
                self.display.update(image)
        share = SHARE_WATCHED if in_notebook() else SHARE
        self.next_drawing = started + max(self.interval, (time.monotonic() - started) / share)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel; does not import IPython."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"
