"""What every test starts from: no network settings, caches or runs of the developer's own."""

from pathlib import Path

import pytest
import torch

from lightning_cifar import main


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A working directory, caches and a W&B configuration that are new and empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("LIGHTNING_CIFAR_DATA", "WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


TINY = ("--recipe", "demo", "--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", "1")


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Arguments of `fit` for a run of a second."""
    return list(TINY)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The directory of such a run."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *TINY, "--run_dir", str(run_dir)]) == 0
    return run_dir
