"""Configured loggers: directories that they cannot write to, or that hold the log of another run."""

from pathlib import Path

import pytest

from lightning_cifar import main

LOGGER = "--trainer.logger"


def fit(tiny: list[str], logger: str, save_dir: str, run_dir: str, *args: str) -> int:
    return main(["fit", *tiny, LOGGER, logger, f"{LOGGER}.save_dir", save_dir, "--run_dir", run_dir, *args])


@pytest.mark.parametrize("logger", ["CSVLogger", pytest.param("TensorBoardLogger", marks=pytest.mark.slow)])
def test_two_runs_of_one_name_do_not_share_a_log(tiny, tmp_path, capsys, logger):
    assert fit(tiny, logger, "logs", "a/run") == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert fit(tiny, logger, "logs", "b/run") == 2
    assert "is of another run: delete it" in capsys.readouterr().err.splitlines()[-1]
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert fit(tiny, logger, "logs", "b/run", "--trainer.fast_dev_run", "true") == 0
    assert main(["fit", "--resume", "a/run", "--trainer.max_epochs", "2"]) == 0


def test_csv_logger_does_not_write_metrics_of_the_run(tiny, capsys):
    assert fit(tiny, "CSVLogger", "run", "run", f"{LOGGER}.name", "", f"{LOGGER}.version", "") == 2
    assert "would write run/metrics.csv" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_directory_that_cannot_be_made_is_named_before_training(tiny, capsys, logger):
    Path("file").touch()
    assert fit(tiny, logger, "file/logs", "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot make file/logs" in line
    assert not Path("run").exists()
