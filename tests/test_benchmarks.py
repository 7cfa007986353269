"""The studies say what they say: their forms are settings of the command line, and the ladder ends where it claims."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from lightning_cifar import main

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def study():
    specification = importlib.util.spec_from_file_location("study", BENCHMARKS / "study.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["study"] = module
    specification.loader.exec_module(module)
    return module


def configuration(capsys, typed):
    assert main(["fit", *typed.split(), "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_ladder_ends_in_fast(study, capsys):
    *_, last = study.STUDIES["ladder"].forms.values()
    climbed, fast = configuration(capsys, last), configuration(capsys, "--recipe fast")
    assert climbed["model"] == fast["model"]
    assert climbed["data"] == fast["data"]
    names = ("max_steps", "precision", "limit_val_batches")
    assert {name: climbed["trainer"][name] for name in names} == {name: fast["trainer"][name] for name in names}


def test_the_wide_branch_costs_what_three_do(study, tmp_path, capsys):
    costs = []
    for form in ("ReLU, as reported", "none: one branch, 1.5 times as wide"):
        config = configuration(capsys, study.STUDIES["gates"].forms[form])
        run_dir = tmp_path / str(len(costs)) / "seed0"
        run_dir.mkdir(parents=True)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        costs.append(study.megaflop(run_dir.parent))
    assert costs[1] == pytest.approx(costs[0], rel=0.02)
