"""A `repeat` that the tests read."""

from pathlib import Path

import pytest

from lightning_cifar import main


@pytest.fixture(scope="session")
def repeated(tmp_path_factory, tiny) -> Path:
    """Directory of a `repeat` of two seeds."""
    run_dir = tmp_path_factory.mktemp("repeated") / "run"
    assert main(["repeat", "--n", "2", *tiny, "--run_dir", str(run_dir)]) == 0
    return run_dir
