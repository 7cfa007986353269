"""W&B: offline without a key, offline when it cannot be reached, absent when not installed; never an error."""

import datetime
import sys

import pytest

from lightning_cifar.run import wandb as ours

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def finished():
    yield
    wandb.finish()


def offline_files(directory):
    return list(directory.glob("wandb/offline-run-*/run-*.wandb"))


def test_offline_without_a_key(tmp_path, eventually):
    with pytest.warns(UserWarning, match="W&B is not online: no API key"):
        logger = ours.wandb_logger("auto", tmp_path, name="name")
    logger.log_metrics({"val/accuracy": 0.5}, step=3)
    assert logger.experiment.name == "name"
    wandb.finish()
    (file,) = offline_files(tmp_path)
    eventually(lambda: b"val/accuracy" in file.read_bytes())  # written by wandb's own process


@pytest.mark.parametrize("how", ["argument", "WANDB_MODE"])
def test_offline_when_asked(tmp_path, monkeypatch, how):
    if how == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "offline")
    assert ours.wandb_logger("offline" if how == "argument" else "auto", tmp_path) is not None
    assert offline_files(tmp_path)


@pytest.mark.slow
def test_unreachable_server_means_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "INIT_TIMEOUT", 1)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with pytest.warns(UserWarning, match="W&B is not online"):
        assert ours.wandb_logger("online", tmp_path) is not None
    assert offline_files(tmp_path)


def test_bad_settings_are_not_fatal(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.warns(UserWarning, match="W&B is not"):
        ours.wandb_logger("auto", tmp_path)


def test_finish_is_not_fatal():
    class Broken:
        @property
        def experiment(self):
            raise RuntimeError("connection lost")

    with pytest.warns(UserWarning, match="W&B could not finish the run: connection lost"):
        ours.finish(Broken(), failed=False)


def test_the_earlier_run_is_the_last_one(tmp_path):
    for name in ("offline-run-20261125_075737-kat5omc0", "run-20261126_000000-my-own-id", "run-notes-old"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert ours.earlier_run(tmp_path) is None  # no run of ours
    (tmp_path / "config.yaml").touch()
    began = datetime.datetime(2026, 11, 25, 7, 57, 37)
    assert ours.earlier_run(tmp_path) == ("auto", "my-own-id", began)


def test_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="pip install wandb"):
        assert ours.wandb_logger("auto", tmp_path) is None
