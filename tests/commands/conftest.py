"""A checkpoint for the commands that read one."""

from pathlib import Path

import pytest


@pytest.fixture
def checkpoint(trained) -> Path:
    return trained / "checkpoints/last.ckpt"
