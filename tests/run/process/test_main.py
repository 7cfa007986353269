"""``python -m lightning_cifar`` where Python or its packages cannot run it."""

import runpy
import subprocess
import sys

import pytest

from lightning_cifar import main

RUN = "import runpy, sys; sys.argv = ['x', *{args}]; {change}; runpy.run_module('lightning_cifar', run_name='__main__')"


@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        ("sys.version_info = (3, 10, 4)", ["--version"], "lightning-cifar needs Python 3.11 or newer, and "),
        ("sys.modules['filelock'] = None", ["--version"], "the package filelock is not installed: pip install it for "),
        ("sys.modules['torch'] = None", ["fit"], "the package torch is not installed: pip install it for "),
    ],
)
def test_a_python_that_cannot_run_it_is_one_line(change, args, words):
    done = subprocess.run([sys.executable, "-c", RUN.format(change=change, args=args)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {words}")
    assert sys.executable in done.stderr


def test_a_command_may_be_one_string(capsys):
    assert main("fit --run_dir 'a b' --lr 1") == main(["fit", "--run_dir", "a b", "--lr", "1"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--model.learning_rate" in first
    assert first == second


def test_the_module_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-cifar", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("lightning_cifar", run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("lightning-cifar ")
