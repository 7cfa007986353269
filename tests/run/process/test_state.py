"""What a command changes in its process, and restores afterwards for notebooks."""

import sys

import pytest
import torch
import torch.distributed as dist

from lightning_cifar import main
from lightning_cifar.run.process.state import restore_torch


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["--trainer.deterministic true", "--trainer.benchmark true", "--trainer.strategy ddp"]
)
def test_a_command_leaves_torch_as_it_was(tiny, options):
    """The next training of a notebook would run deterministic algorithms, or as one process of several."""
    hook = sys.excepthook
    assert main(["fit", *tiny, *options.split(), "--run_dir", "run"]) == 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert not dist.is_initialized()
    assert sys.excepthook is hook


def test_what_was_set_before_a_command_stays(tmp_path):
    torch.use_deterministic_algorithms(True, warn_only=True)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with restore_torch():
            torch.use_deterministic_algorithms(False)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert dist.is_initialized()
    finally:
        torch.use_deterministic_algorithms(False)
        dist.destroy_process_group()
