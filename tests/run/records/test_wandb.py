"""start_wandb: offline without a key or a server, no logging without wandb, and never an error."""

import datetime
import sys

import pytest

from lightning_cifar.run.records import wandb as wandb_logging


@pytest.fixture(autouse=True)
def finish():
    """Return the function that ends a run; it is called after each test."""
    import wandb

    yield wandb.finish
    wandb.finish()


def find_offline_files(directory):
    return list(directory.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_runs_are_offline_without_an_api_key(tmp_path, eventually, finish):
    with pytest.warns(UserWarning, match="W&B is not online: no API key"):
        logger = wandb_logging.start_wandb("auto", tmp_path, name="name")
    logger.log_metrics({"val/accuracy": 0.5}, step=3)
    assert logger.experiment.name == "name"
    finish()
    (file,) = find_offline_files(tmp_path)
    eventually(lambda: b"val/accuracy" in file.read_bytes())  # written by a process of wandb


@pytest.mark.slow
@pytest.mark.parametrize("how", ["argument", "WANDB_MODE"])
def test_offline_mode_can_be_chosen(tmp_path, monkeypatch, how):
    if how == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_logging.start_wandb("offline" if how == "argument" else "auto", tmp_path) is not None
    assert find_offline_files(tmp_path)


@pytest.mark.slow
def test_unreachable_server_falls_back_to_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_logging, "INIT_TIMEOUT", 1)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with pytest.warns(UserWarning, match="W&B is not online"):
        assert wandb_logging.start_wandb("online", tmp_path) is not None
    assert find_offline_files(tmp_path)


@pytest.mark.filterwarnings("ignore:W&B is not offline")  # in a process that has not used wandb before
def test_bad_settings_give_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.warns(UserWarning, match="W&B is not nonsense: .* 'online', 'offline'"):
        wandb_logging.start_wandb("auto", tmp_path)


@pytest.mark.filterwarnings("ignore:W&B is not online")
def test_variables_without_effect(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_logging, "INIT_TIMEOUT", 1)  # another test may have given this process a key
    monkeypatch.setenv("WANDB_MODE", "")  # as if it was not set
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    with pytest.warns(UserWarning, match="WANDB_DIR has no effect: W&B's files go to .*/run/wandb"):
        assert wandb_logging.start_wandb("auto", tmp_path / "run") is not None
    assert find_offline_files(tmp_path / "run")


def test_failure_to_finish_gives_a_warning():
    class Broken:
        @property
        def experiment(self):
            raise RuntimeError("connection lost")

    with pytest.warns(UserWarning, match="W&B could not finish the run: connection lost"):
        wandb_logging.finish_wandb(Broken(), failed=False)


def test_earlier_run_has_the_last_id_and_the_first_start(tmp_path):
    for name in ("offline-run-20261125_075737-kat5omc0", "run-20261126_000000-custom-id", "run-notes-old"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert wandb_logging.find_earlier_run(tmp_path) is None  # without config.yaml it is not a run directory
    (tmp_path / "config.yaml").touch()
    began = datetime.datetime(2026, 11, 25, 7, 57, 37)
    assert wandb_logging.find_earlier_run(tmp_path) == ("auto", "custom-id", began)


def test_missing_wandb_gives_a_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="pip install wandb"):
        assert wandb_logging.start_wandb("auto", tmp_path) is None
