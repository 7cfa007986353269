"""Progress output: a table with one row per epoch, and in a terminal a progress bar."""

import shutil
import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from lightning_cifar.errors import check_range
from lightning_cifar.run.console.epoch_table import Cell, EpochTable, draw_sparkline
from lightning_cifar.run.records.run_json import count_trained_epochs


class Progress(ProgressBar):
    """Print one row per epoch and, in a terminal, a progress bar with speed, loss, accuracy and time left.

    In a terminal each row ends in a small plot of the held-out accuracy, or of the training accuracy if nothing is held
    out.

    Args:
        interval: minimum seconds between two reads of the metrics; each read waits for the device.
        epoch_rows: print the rows; False prints the bar only.
    """

    def __init__(self, interval: float = 0.5, epoch_rows: bool = True) -> None:
        super().__init__()
        check_range("interval", interval, "[0, inf]")
        self.interval, self.epoch_rows = interval, epoch_rows
        self.enabled = True
        self.validated = False
        self.bar: tqdm | None = None

    def disable(self) -> None:
        """Print nothing; Lightning calls this on every rank but 0."""
        self.enabled = False

    def enable(self) -> None:
        """Print again; Lightning calls this after a trial of LearningRateFinder or BatchSizeFinder."""
        self.enabled = True

    def open(self, description: str, total: float, done: float = 0) -> None:
        self.close()
        self.looked = time.monotonic()
        self.bar = tqdm(
            total=int(total) if total != float("inf") else None,
            initial=done,
            leave=False,
            disable=not self.enabled or not sys.stderr.isatty(),
            ncols=shutil.get_terminal_size().columns - 1,
            bar_format="{desc} {percentage:3.0f}%{postfix}, {remaining} left |{bar}|",  # cut off at the right
        )
        self.bar.set_description_str(description)

    def close(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    on_train_end = teardown = on_exception = close

    def advance(self, *_: Any, **__: Any) -> None:
        assert self.bar is not None
        self.bar.update()

    on_test_batch_end = on_predict_batch_end = advance

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.table = EpochTable()
        self.accuracies: dict[str, list[float]] = {}  # of each epoch, by split: train, val, test
        self.train_started, self.done_before = time.monotonic(), find_share(trainer)
        self.open("training", float("inf") if self.done_before is None else 1, self.done_before or 0.0)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        assert self.bar is not None
        if self.bar.disable:
            return
        self.bar.update((find_share(trainer) or 0.0) - self.bar.n)
        if time.monotonic() - self.looked > self.interval:
            self.looked = time.monotonic()
            shown = {name: float(value) for name, value in trainer.callback_metrics.items()}
            formats = [("{:,.0f} images/s", "time/images_per_second"), ("loss {:.3f}", "train/loss_step")]
            formats += [("accuracy {:.1%}", "train/accuracy_step")]
            self.bar.set_description_str(format_epoch(trainer), refresh=False)
            self.bar.set_postfix_str(", ".join(text.format(shown[name]) for text, name in formats if name in shown))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.enabled and self.epoch_rows:
            cells = self.make_cells(trainer)
            width = plot = None
            if sys.stdout.isatty():
                cells.pop()  # the bar shows the time left
                width = shutil.get_terminal_size().columns - 1
                if self.accuracies and (sys.stdout.encoding or "").lower().startswith("utf"):
                    split = [*self.accuracies][-1]  # the held-out split, if there is one
                    plot = f"{split} acc", draw_sparkline(self.accuracies[split])
            for line in self.table.format_lines(cells, width, plot):
                tqdm.write(line)
        self.validated = False

    def make_cells(self, trainer: Trainer) -> list[Cell]:
        """Return the cells of an epoch's row, the most important first."""
        shown = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epochs = count_epochs(trainer)
        cells = [("epoch", format_epoch(trainer).removeprefix("epoch "), len(f"{epochs}/{epochs}"))]
        for split in ("train", "val", "test"):
            if f"{split}/loss" in shown:
                is_new = split == "train" or self.validated  # otherwise the metrics are those of an earlier epoch
                cells += [(f"{split} loss", f"{shown[f'{split}/loss']:.3f}" if is_new else "", 0)]
                if (accuracy := shown.get(f"{split}/accuracy")) is None:  # another module may log only the loss
                    continue
                cells += [("acc", f"{accuracy:.1%}" if is_new else "", len("100.0%"))]
                if is_new:
                    self.accuracies.setdefault(split, []).append(accuracy)
        if speed := shown.get("time/epoch_images_per_second"):
            cells.append(("images/s", f"{speed:,.0f}", 0))
        taken, done, left = time.monotonic() - self.train_started, find_share(trainer), ""
        if done is not None and self.done_before is not None and done > self.done_before:
            left = tqdm.format_interval(taken * (1 - done) / (done - self.done_before))
        cells.append(("time", tqdm.format_interval(taken), len("0:00:00")))
        cells.append(("left", left, len("0:00:00")))
        return cells

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.open("validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == "validate":
            self.advance()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.open("testing", sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.open("predicting", sum(trainer.num_predict_batches))


def count_epochs(trainer: Trainer) -> int:
    """Return the number of epochs of the training; 0 if it is not limited."""
    return max(0, trainer.max_epochs or 0)


def find_share(trainer: Trainer) -> float | None:
    """Return which share of the training is done, by its epochs or by its steps, of which either ends it.

    None if neither is limited.
    """
    epochs, steps = count_epochs(trainer), trainer.max_steps
    shares = [count_trained_epochs(trainer) / epochs] if epochs else []
    shares += [trainer.global_step / steps] if steps > 0 else []
    return min(max(shares), 1.0) if shares else None  # manual optimisation may take more steps


def format_epoch(trainer: Trainer) -> str:
    """Return the current epoch as ``epoch 2/30``, or ``epoch 2`` if their number is not limited."""
    of = f"/{epochs}" if (epochs := count_epochs(trainer)) else ""
    return f"epoch {trainer.current_epoch + 1}{of}"
