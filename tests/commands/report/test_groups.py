"""Labels of the groups of runs."""

from pathlib import Path

import pytest

from lightning_cifar.commands.report.groups import group_runs
from lightning_cifar.commands.report.runs import SavedRun


def test_settings_that_change_nothing_that_is_learnt_make_no_other_group():
    """As in a directory of `repeat`, whose seeds may be trained on several devices."""
    own = [{"trainer.devices": [device], "trainer.log_every_n_steps": 9 + device} for device in (0, 1)]
    runs = [SavedRun(Path(f"seed{seed}"), settings=settings, seed=seed) for seed, settings in enumerate(own)]
    parallel = SavedRun(Path("seed2"), settings={"trainer.devices": 4, "trainer.log_every_n_steps": 9}, seed=2)
    first, second = group_runs([*runs, parallel])
    assert (first.runs, second.label) == (runs, "custom (devices 4)")


@pytest.mark.parametrize("names", [("a", "b"), (".",)])
def test_runs_named_in_their_own_directory_have_a_label(names):
    """Settings that differ too much for a label leave the directory's name, which `.` has not."""
    Path("long").mkdir()
    settings = {"model.gate": "x" * 50}
    runs = [SavedRun(Path(name), settings=settings, seed=seed) for seed, name in enumerate(names)]
    first, second = group_runs([*runs, SavedRun(Path("long"), settings={"model.gate": "none"})])
    assert (first.label, second.label) == (f"custom ({Path.cwd().name})", "custom (gate none)")
