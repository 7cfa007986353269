"""What one sees while it runs: throughput, a bar in a terminal, and a table with a row an epoch everywhere."""

import shutil
import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from lightning_cifar.run.epoch_table import Cell, EpochTable, sparkline


class Progress(ProgressBar):
    """A row an epoch on standard output and, in a terminal, a bar with speed, loss, accuracy and time left.

    In a terminal a row ends in a small plot of the held-out accuracy so far, of training's where nothing is held out.

    Args:
        interval: least seconds between two looks at the metrics, each of which waits for the device.
        epoch_rows: False: the bar alone.
    """

    def __init__(self, interval: float = 0.5, epoch_rows: bool = True) -> None:
        super().__init__()
        self.interval, self.epoch_rows = interval, epoch_rows
        self.enabled = True
        self.validated = False
        self.table = EpochTable()
        self.accuracies: dict[str, list[float]] = {}  # of the epochs so far, by ``train``, ``val``, ``test``
        self.bar: tqdm | None = None

    def disable(self) -> None:
        """Lightning calls it on every rank but the first."""
        self.enabled = False

    def open(self, description: str, total: float, done: int = 0) -> None:
        self.close()
        self.looked = time.monotonic()
        self.bar = tqdm(
            total=int(total) if total != float("inf") else None,
            initial=done,
            leave=False,
            disable=not self.enabled or not sys.stderr.isatty(),
            ncols=shutil.get_terminal_size().columns - 1,
            bar_format="{desc} {percentage:3.0f}%{postfix}, {remaining} left |{bar}|",  # cut from the right
        )
        self.bar.set_description_str(description)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else float("inf")
        batches = trainer.num_training_batches * epochs
        if trainer.max_steps > 0:
            batches = min(batches, trainer.max_steps * trainer.accumulate_grad_batches)
        self.batches, self.train_started, self.started_at = batches, time.monotonic(), done_batches(trainer)
        self.open("training", batches, self.started_at)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        assert self.bar is not None
        self.bar.update()
        if not self.bar.disable and time.monotonic() - self.looked > self.interval:
            self.looked = time.monotonic()
            shown = {name: float(value) for name, value in trainer.callback_metrics.items()}
            words = [("{:,.0f} images/s", "time/images_per_second"), ("loss {:.3f}", "train/loss_step")]
            words += [("accuracy {:.1%}", "train/accuracy_step")]
            self.bar.set_description_str(epoch_name(trainer), refresh=False)
            self.bar.set_postfix_str(", ".join(form.format(shown[name]) for form, name in words if name in shown))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.enabled and self.epoch_rows:
            cells = self.cells(trainer)
            width = plot = None
            if sys.stdout.isatty():
                cells.pop()  # the bar tells the time left
                width = shutil.get_terminal_size().columns - 1
                if self.accuracies and (sys.stdout.encoding or "").lower().startswith("utf"):
                    part = [*self.accuracies][-1]  # the last that came: what is held out
                    plot = f"{part} acc", sparkline(self.accuracies[part])
            for line in self.table.lines(cells, width, plot):
                tqdm.write(line)
        self.validated = False

    def cells(self, trainer: Trainer) -> list[Cell]:
        """What there is to tell of an epoch, the most important first."""
        shown = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 0
        found = [("epoch", epoch_name(trainer).removeprefix("epoch "), len(f"{epochs}/{epochs}"))]
        for part in ("train", "val", "test"):
            if f"{part}/loss" in shown:
                told = part == "train" or self.validated  # else it is an earlier epoch's
                loss, accuracy = shown[f"{part}/loss"], shown[f"{part}/accuracy"]
                found += [(f"{part} loss", f"{loss:.3f}" if told else "", 0)]
                found += [("acc", f"{accuracy:.1%}" if told else "", len("100.0%"))]
                if told:
                    self.accuracies.setdefault(part, []).append(accuracy)
        if speed := shown.get("time/epoch_images_per_second"):
            found.append(("images/s", f"{speed:,.0f}", 0))
        taken, done = time.monotonic() - self.train_started, done_batches(trainer)
        left = taken / max(1, done - self.started_at) * (self.batches - done)
        found.append(("time", tqdm.format_interval(taken), len("0:00:00")))
        found.append(("left", tqdm.format_interval(left) if left != float("inf") else "", len("0:00:00")))
        return found

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.open("validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == "validate" and self.bar is not None:
            self.bar.update()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.open("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        assert self.bar is not None
        self.bar.update()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.open("predicting", sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        assert self.bar is not None
        self.bar.update()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()


def done_batches(trainer: Trainer) -> int:
    return trainer.fit_loop.total_batch_idx + 1


def epoch_name(trainer: Trainer) -> str:
    of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    return f"epoch {trainer.current_epoch + 1}{of}"
