"""The choice between float32 and bfloat16, and memory that is reused without new page faults."""

import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from lightning_cifar import ImageClassifier, main
from lightning_cifar.run.process import hardware
from lightning_cifar.run.process.hardware import find_processor_precision, measure_precision


class Slow(nn.Module):
    """A network that is slow in one precision, like bfloat16 on processors without its instructions."""

    def __init__(self, slow: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)
        self.slow = slow

    def forward(self, images):
        logits = self.linear(images.mean((2, 3)))
        if logits.dtype == self.slow:
            time.sleep(0.02)
        return logits


@pytest.mark.parametrize(("slow", "chosen"), [(torch.bfloat16, "32-true"), (torch.float32, "bf16-mixed")])
def test_chooses_the_faster_precision(slow, chosen):
    assert measure_precision(Slow(slow), side=8) == chosen


def test_measures_networks_that_use_view():
    """They would not work with filters that are channels last."""

    class Viewed(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, num_classes)

        def forward(self, pixels):
            return self.head(self.features(pixels).view(len(pixels), -1))

    network = ImageClassifier(network=Viewed, image_size=8).network
    assert measure_precision(network, side=8) in ("32-true", "bf16-mixed")


@pytest.mark.slow
def test_leaves_network_and_random_state_unchanged():
    network = ImageClassifier(widths=(4, 4, 8, 8, 8), hidden=8).network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    assert measure_precision(network, side=32) in ("32-true", "bf16-mixed")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("info", "chosen"),
    [
        ("flags\t\t: fpu sse2 avx512_bf16 amx_tile\n", "bf16-mixed"),
        ("processor\t: 0\nflags\t\t: fpu sse2 avx512f\n", "32-true"),
        ("Features\t: fp asimd bf16\n", "bf16-mixed"),
        ("processor\t: 0\n", None),
        (None, None),
    ],
)
def test_precision_is_decided_by_the_instructions_of_the_processor(tmp_path, info, chosen):
    if info is not None:
        (tmp_path / "cpuinfo").write_text(info)
    assert find_processor_precision(tmp_path / "cpuinfo") == chosen


def test_auto_follows_the_processor_where_there_is_no_gpu(tiny, capsys, monkeypatch):
    """Also with a build of torch for GPUs."""
    monkeypatch.setattr(hardware, "find_processor_precision", lambda: "bf16-mixed")
    assert main(["fit", *tiny, "--trainer.accelerator", "cpu", "--trainer.precision", "auto"]) == 0
    assert main(["fit", *tiny, "--trainer.precision", "auto"]) == 0
    expected = 1 if torch.accelerator.is_available() else 2
    assert capsys.readouterr().out.count("precision: bf16-mixed, the faster one here") >= expected


def test_auto_is_float32_on_other_accelerators(tiny, capsys, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("mps"))
    assert main(["fit", *tiny, "--trainer.precision", "auto"]) == 0
    assert "precision: 32-true, others are not tested on mps" in capsys.readouterr().out


FAULTS = """
import resource, torch
from lightning_cifar.run.process.hardware import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20)  # 256 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(20)][-1])  # the heap has settled by then
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.long
def test_a_repeated_allocation_causes_few_page_faults():
    def run(keep: bool) -> int:
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    with_setting, without = run(True), run(False)
    assert with_setting < without / 10
