"""``metrics.csv`` by Lightning's CSVLogger, of a run that may have been stopped: without doubled or missing rows."""

import csv
import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

METRICS = "metrics.csv"


class Writer(ExperimentWriter):
    """Lightning's, but it goes on with a file that is there, and rewrites it whole or not at all."""

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        file = Path(self.metrics_file_path)
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, file)


def csv_logger(run_dir: Path, lines: int = 0) -> CSVLogger:
    """A logger to ``run_dir/metrics.csv``, of which the first ``lines`` are kept, header included."""
    logger = CSVLogger(run_dir, name="", version="")
    logger._experiment = writer = Writer(logger.log_dir)
    file = run_dir / METRICS
    if file.exists():
        kept = file.read_text().splitlines(keepends=True)[:lines]
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text("".join(kept))
        os.replace(partial, file)
        if kept:
            writer.metrics_keys = next(csv.reader(kept))
        else:
            file.unlink()
    return logger
