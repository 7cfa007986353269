"""doctor finds what is there and what is not, and keeps secrets."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from lightning_cifar import main
from lightning_cifar.commands import doctor


@pytest.fixture
def pretend(monkeypatch):
    """Packages of other versions, or, by None, not installed; the machine is not looked at, which takes seconds."""
    monkeypatch.setattr(doctor, "machine", lambda: iter(()))

    def set_versions(**others):
        def pretended(name):
            if name in others and others[name] is None:
                raise PackageNotFoundError(name)
            return others.get(name) or version(name)

        monkeypatch.setattr(doctor, "version", pretended)

    return set_versions


@pytest.mark.slow
def test_this_machine_can_train(tmp_path):
    """In a process of its own, since wandb keeps the key for later runs."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    environment = {**os.environ, "WANDB_API_KEY": "0123456789" * 4, "LIGHTNING_CIFAR_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "lightning_cifar", "doctor"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\n  no" not in out
    assert f"  ok  CIFAR-10 in {tmp_path}, by LIGHTNING_CIFAR_DATA\n" in out
    assert f"  -   CIFAR-100 is not in {tmp_path}" in out
    assert "  ok  W&B: an API key is known" in out
    assert "0123456789" not in out
    assert out.endswith("this can train\n")


def test_what_is_missing_or_old_is_named(capsys, pretend):
    pretend(torch="2.9.0", optuna=None)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "  no  torch 2.9.0, where >=2.10 is needed\n" in out
    assert "  -   sweep: optuna is not installed; pip install 'lightning-cifar[sweep]'\n" in out
    assert "this cannot train" in out


def test_an_extra_is_no_need(capsys, pretend):
    pretend(optuna=None)
    assert main(["doctor"]) == 0
