"""``metrics.csv``: Lightning's CSVLogger, for runs that may be stopped and resumed without doubled or missing rows."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lightning_cifar.errors import reason
from lightning_cifar.files import write_whole
from lightning_cifar.run.figures.curves import METRICS, read_metrics
from lightning_cifar.run.process.rank_zero import is_rank_zero


class Writer(ExperimentWriter):
    """Lightning's writer, which continues an existing file and rewrites it atomically.

    An existing file is cut to its first ``lines`` when the first row is logged: a run that trains nothing keeps all.
    """

    lines: int | None = None  # None: the file is this writer's

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        self.cut()
        super().log_metrics(metrics_dict, step)

    def cut(self) -> None:
        """Cut an existing file to ``lines`` lines, the header included."""
        lines, self.lines, file = self.lines, None, Path(self.metrics_file_path)
        if lines is None:
            return
        # In bytes: as text, line ends would change.
        kept = file.read_bytes().splitlines(keepends=True)[:lines] if file.is_file() else []
        if len(kept) < lines:
            print(f"{file} has {len(kept)} of the {lines} lines of the checkpoint: the others are missing")
        try:
            write_whole(file, b"".join(kept))
            read_metrics(file)
            self.metrics_keys = next(csv.reader([kept[0].decode()]))
        except (ValueError, TypeError, LookupError, csv.Error) as error:
            if kept:
                set_aside(file, error)
            else:
                file.unlink()

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write ``hparams.yaml`` anew: Lightning writes into the file that a link of this name points to."""
        Path(self.log_dir, self.NAME_HPARAMS_FILE).unlink(missing_ok=True)
        super().log_hparams(params)

    def _check_log_dir_exists(self) -> None:
        """Keep the file; Lightning deletes it."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        file, text = Path(self.metrics_file_path), io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=fieldnames)
        writer.writeheader()
        header = text.getvalue()
        try:
            with file.open(newline="") as opened:
                writer.writerows(csv.DictReader(opened))
            write_whole(file, text.getvalue().encode())
        except (ValueError, csv.Error) as error:  # somebody has edited it
            set_aside(file, error)
            write_whole(file, header.encode())


def set_aside(file: Path, error: Exception) -> None:
    """Keep a damaged file under another name, and print it."""
    damaged = file.with_name(f"damaged-{file.name}")
    os.replace(file, damaged)
    print(f"{file} is damaged ({reason(error)}): it is kept as {damaged}, and a new one is begun")


def keep_lines(logger: CSVLogger, lines: int) -> CSVLogger:
    """Return the logger, which now keeps the first ``lines`` of its file, header included; Lightning's deletes it."""
    if is_rank_zero():  # other processes write nothing
        logger._experiment = writer = Writer(logger.log_dir)
        writer.lines = lines
    return logger


def find_csv_logger(trainer: Trainer) -> CSVLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)


def count_lines(trainer: Trainer) -> int:
    """Return the number of lines of ``metrics.csv``, header included, after syncing them to disk; 0 without a file."""
    logger = find_csv_logger(trainer)
    if logger is None or not (file := Path(logger.log_dir) / METRICS).exists():
        return 0
    if isinstance(logger.experiment, Writer):
        logger.experiment.cut()
        if not file.exists():  # nothing of it is kept: the run that began it left no checkpoint
            return 0
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
        return opened.read().count(b"\n")
