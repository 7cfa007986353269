"""Freed memory is reused without new page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from lightning_cifar.run.hardware import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20)  # 256 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(20)][-1])  # the heap has settled by then
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.slow
def test_a_repeated_allocation_causes_few_page_faults():
    def run(keep: bool) -> int:
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    with_setting, without = run(True), run(False)
    assert with_setting < without / 10
