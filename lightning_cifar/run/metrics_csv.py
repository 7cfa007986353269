"""``metrics.csv`` by Lightning's CSVLogger, of a run that may have been stopped: without doubled or missing rows."""

import csv
import io
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lightning_cifar.distributed import is_first
from lightning_cifar.files import write_whole
from lightning_cifar.run.curves import METRICS


class Writer(ExperimentWriter):
    """Lightning's, but it goes on with a file that is there, and rewrites it whole or not at all."""

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        file, text = Path(self.metrics_file_path), io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=fieldnames)
        writer.writeheader()
        with file.open(newline="") as opened:
            writer.writerows(csv.DictReader(opened))
        write_whole(file, text.getvalue().encode())


def csv_logger(run_dir: Path, lines: int = 0) -> CSVLogger:
    """A logger to ``run_dir/metrics.csv``, of which the first ``lines`` are kept, header included."""
    logger = CSVLogger(run_dir, name="", version="")
    if not is_first():
        return logger  # which writes nothing
    logger._experiment = writer = Writer(logger.log_dir)
    file = run_dir / METRICS
    if file.exists():
        # In bytes: as text, line ends would not come back as they were.
        if kept := file.read_bytes().splitlines(keepends=True)[:lines]:
            write_whole(file, b"".join(kept))
            writer.metrics_keys = next(csv.reader([kept[0].decode()]))
        else:
            file.unlink()
    return logger


def find_csv_logger(trainer: Trainer) -> CSVLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)
