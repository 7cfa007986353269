"""``python -m lightning_cifar`` where Python or its packages cannot run it."""

import logging
import runpy
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_cifar import main
from lightning_cifar.commands import fit
from lightning_cifar.run.process.state import SHARED, is_of_callback

RUN = "import runpy, sys; sys.argv = ['x', *{args}]; {change}; runpy.run_module('lightning_cifar', run_name='__main__')"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        (
            "sys.version_info = (3, 10, 4)",
            ["--version"],
            f"lightning-cifar needs Python 3.11 or newer, and {sys.executable}",
        ),
        (
            "sys.modules['filelock'] = None",
            ["report"],
            f"the package filelock is not installed: pip install it for {sys.executable}",
        ),
        (
            "import os; os.environ['MPLBACKEND'] = 'Qt4Agg'",
            ["fit"],
            "MPLBACKEND, or backend in a matplotlibrc: 'Qt4Agg' is",
        ),
        (
            "sys.modules['torch'] = None",
            ["fit"],
            f"the package torch is not installed: pip install it for {sys.executable}",
        ),
    ],
)
def test_a_python_that_cannot_run_it_is_one_line(change, args, words):
    done = subprocess.run([sys.executable, "-c", RUN.format(change=change, args=args)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {words}")


def test_a_command_may_be_one_string(capsys):
    assert main("fit --run_dir 'a b' --lr 1") == main(["fit", "--run_dir", "a b", "--lr", "1"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--model.learning_rate" in first
    assert first == second
    assert main("'fit") == 2
    assert capsys.readouterr().err.startswith('error: no command "\'fit": did you mean fit?')


@pytest.mark.parametrize("shell", [None, "ZMQInteractiveShell"])
def test_an_error_in_a_notebook_is_one_line(monkeypatch, capsys, shell):
    """``%run -m lightning_cifar fit ...``: IPython shows the traceback of an exit."""
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "argv", ["x", "fit", "--recipe", "absent"])
    with nullcontext() if shell else pytest.raises(SystemExit, match="2"):
        runpy.run_module("lightning_cifar", run_name="__main__")
    assert capsys.readouterr().err.startswith("error: no recipe 'absent': ")


def test_the_module_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-cifar", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("lightning_cifar", run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("lightning-cifar ")


@pytest.mark.slow
def test_a_second_thread_does_not_train_beside_the_first(tiny, monkeypatch, capsys):
    """The parser changes the working directory for a moment: the other run was written into the package."""
    found = []

    def start_another(job):
        thread = threading.Thread(target=lambda: found.append(main(["fit", *tiny, "--run_dir", "second"])))
        thread.start()
        thread.join()
        assert is_of_callback in logging.getLogger(SHARED).filters  # what is set for the first is not restored yet
        found.append(main(["predict", "--images", "nothing.jpg"]))  # needs no Trainer
        return load_data(job)

    load_data = fit.load_data
    monkeypatch.setattr(fit, "load_data", start_another)
    assert main(["fit", *tiny, "--run_dir", "first"]) == 0
    assert found == [2, 1]
    second, predicted = capsys.readouterr().err.splitlines()
    assert second.startswith("error: fit: another thread of this process trains or tests")
    assert predicted.startswith("1 image could not be read")
    assert not Path("second").exists()
    monkeypatch.setattr(fit, "load_data", load_data)
    assert main(["fit", *tiny, "--run_dir", "second"]) == 0
