"""Runs to report on."""

import shutil
from pathlib import Path

import pytest

from lightning_cifar import main


@pytest.fixture(scope="session")
def runs(trained, tmp_path_factory) -> Path:
    """A directory of runs as `fit` and `test` leave it: demo/run and test/one."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, root / "demo/run")
    checkpoint = root / "demo/run/checkpoints/last.ckpt"
    assert main(["test", "--ckpt_path", str(checkpoint), "--run_dir", str(root / "test/one")]) == 0
    return root
