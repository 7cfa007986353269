"""Labels of the groups of runs."""

from pathlib import Path

import pytest

from lightning_cifar.commands.report.groups import group_runs
from lightning_cifar.commands.report.runs import SavedRun


@pytest.mark.parametrize("names", [("a", "b"), (".",)])
def test_runs_named_in_their_own_directory_have_a_label(names):
    """Settings that differ too much for a label leave the directory's name, which `.` has not."""
    Path("long").mkdir()
    settings = {"model.gate": "x" * 50}
    runs = [SavedRun(Path(name), settings=settings, seed=seed) for seed, name in enumerate(names)]
    first, second = group_runs([*runs, SavedRun(Path("long"), settings={"model.gate": "none"})])
    assert (first.label, second.label) == (f"custom ({Path.cwd().name})", "custom (gate none)")
