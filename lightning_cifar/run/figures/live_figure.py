"""The report's figure, redrawn from ``metrics.csv`` during training."""

import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_cifar.errors import InputError, check_range, reason
from lightning_cifar.files import write_whole
from lightning_cifar.run.accumulation import count_epoch_steps
from lightning_cifar.run.figures.curves import METRICS, PLOTTED, plot_metrics, read_metrics
from lightning_cifar.run.figures.png import render_figure
from lightning_cifar.run.records.metrics_csv import find_csv_logger

CURVES = "curves.png"
MAX_SHARE, MAX_SHARE_NOTEBOOK = 0.01, 0.05  # of the training time, for drawing


class LiveFigure(Callback):
    """Redraw ``curves.png``, next to ``metrics.csv``, during training; in a notebook, also show the figure.

    It plots what the module logs as ``train/loss``, ``train/accuracy``, ``val/loss``, ``val/accuracy``, ``test/loss``
    or ``test/accuracy``, and warns at the end if it logs none of these.

    Args:
        interval: minimum seconds between two drawings of about 0.2 s, and before the first. Drawing also takes at most
            1 % of the training time, in a notebook 5 %. The figure is always drawn at the end.

    Raises:
        InputError: ``interval`` is negative, or the trainer has no `CSVLogger`, which writes the numbers to plot.
    """

    def __init__(self, interval: float = 15.0) -> None:
        check_range("interval", interval, "[0, inf]")
        self.interval = interval
        self.display: Any = None
        self.broken = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        without_loggers = getattr(trainer, "fast_dev_run", False)  # Lightning removes them
        if stage == "fit" and not without_loggers and find_csv_logger(trainer) is None:
            raise InputError("LiveFigure plots metrics.csv: give the Trainer a CSVLogger")
        self.trains = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trains = True
        self.next_drawing = time.monotonic() + self.interval

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() > self.next_drawing:
            self.draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer)
        logged = {*trainer.callback_metrics}  # empty if a complete run was resumed
        if find_csv_logger(trainer) is not None and logged and logged.isdisjoint(PLOTTED):
            rank_zero_warn(f"{CURVES} is empty: {type(pl_module).__name__} logs none of {', '.join(PLOTTED)}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.trains:  # a complete run that is resumed: a kill may have left an older figure
            self.draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.draw(trainer)

    def draw(self, trainer: Trainer) -> None:
        """Draw the figure; an error in drawing does not end training, but is a warning, and the last attempt."""
        try:
            if not self.broken:
                self.redraw(trainer)
        except OSError:  # a full disk, a directory that is gone
            raise
        except Exception as error:
            self.broken = True
            warnings.warn(f"{CURVES} is drawn no more: {reason(error)}", stacklevel=2)

    def redraw(self, trainer: Trainer) -> None:
        logger = find_csv_logger(trainer)
        steps_per_epoch = count_epoch_steps(trainer)
        if logger is None or not trainer.is_global_zero or steps_per_epoch is None:
            return
        started = time.monotonic()
        logger.save()
        metrics = Path(logger.log_dir) / METRICS
        if not metrics.exists():  # nothing logged yet
            self.next_drawing = started + self.interval
            return
        title = "/".join(metrics.absolute().parts[-3:-1])  # such as report/2026-11-25_12-00-00
        png = render_figure(plot_metrics(read_metrics(metrics, steps_per_epoch), title))
        write_whole(metrics.with_name(CURVES), png)
        if is_notebook():
            from IPython.display import Image, display

            image = Image(png, width=800)
            if self.display is None:
                self.display = display(image, display_id=True)
            else:
                self.display.update(image)
        share = MAX_SHARE_NOTEBOOK if is_notebook() else MAX_SHARE
        self.next_drawing = started + max(self.interval, (time.monotonic() - started) / share)


def is_notebook() -> bool:
    """Return whether this process is a Jupyter kernel, without importing IPython."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"
