"""`doctor` reports what is installed and found, and prints no key."""

import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import pytest

from lightning_cifar import main
from lightning_cifar.commands import doctor
from lightning_cifar.run.process.hardware import find_processor_precision
from tests.children import set_environment


@pytest.fixture
def pretend(monkeypatch):
    """Set versions of packages, None for not installed; skip the check of the machine, which takes seconds."""
    monkeypatch.setattr(doctor, "check_machine", lambda: iter(()))

    def set_versions(**others):
        def pretended(name):
            if name in others and others[name] is None:
                raise PackageNotFoundError(name)
            return others.get(name) or version(name)

        monkeypatch.setattr(doctor, "version", pretended)

    return set_versions


@pytest.mark.slow
def test_this_machine_can_train(tmp_path, start):
    """In a separate process, since wandb keeps the key."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    values = {"WANDB_API_KEY": "0123456789" * 4, "LIGHTNING_CIFAR_DATA": str(tmp_path)}
    child = start("doctor", prepare=partial(set_environment, **values))
    assert child.wait() == 0
    out = child.output.read_text()
    assert "\n  no" not in out
    assert f"  ok  CIFAR-10 in the directory {tmp_path} (LIGHTNING_CIFAR_DATA)\n" in out
    assert f"  -   CIFAR-100 is not in the directory {tmp_path}" in out
    assert f"faster precision for training: {find_processor_precision() or ''}" in out  # that of fit
    assert "  ok  W&B: logged in" in out
    assert "0123456789" not in out
    assert out.endswith("training is possible\n")


@pytest.mark.slow
def test_what_is_missing_or_old_is_named(capsys, pretend):
    pretend(torch="2.9.0", optuna=None)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "  no  torch 2.9.0: >=2.10 is required\n" in out
    assert "  -   sweep: optuna is not installed; pip install 'lightning-cifar[sweep]'\n" in out
    assert "training is not possible" in out


def test_a_missing_extra_is_not_an_error(capsys, pretend):
    pretend(optuna=None)
    assert main(["doctor"]) == 0
    assert "training is possible" in capsys.readouterr().out


def test_torch_that_cannot_be_imported_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor"]) == 1
    assert "  no  the network does not run: import of torch halted" in capsys.readouterr().out


def test_data_are_looked_for_where_fit_reads_them(capsys, pretend, tmp_path, monkeypatch):
    pretend()
    (tmp_path / "home/mine/cifar-10-batches-py").mkdir(parents=True)
    monkeypatch.setenv("LIGHTNING_CIFAR_DATA", "~/mine")
    assert main(["doctor"]) == 0
    assert f"  ok  CIFAR-10 in the directory {tmp_path}/home/mine (LIGHTNING_CIFAR_DATA)" in capsys.readouterr().out
