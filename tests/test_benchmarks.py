"""The studies say what they say: their forms are settings of the command line, and the ladder ends where it claims."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_cifar import CIFAR10DataModule, main

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name):
    specification = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study():
    return benchmark("study")


def configuration(capsys, typed):
    assert main(["fit", *typed.split(), "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("script", sorted(file.stem for file in BENCHMARKS.glob("*.py")))
def test_every_benchmark_finds_what_it_measures(script, monkeypatch):
    """What it imports, and what it puts a clock on."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    parts = getattr(benchmark(script), "PARTS", {})
    assert all(hasattr(owner, name) for owner, names in parts.values() for name in names)


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


def test_held_out_are_the_validation_images(image_folder, tmp_path):
    shutil.rmtree(image_folder / "val")
    benchmark("held_out").link(image_folder, tmp_path / "held_out", size=6)
    own = CIFAR10DataModule("folder", root=image_folder, val_size=6)
    linked = CIFAR10DataModule("folder", root=tmp_path / "held_out", held_out="test")
    for data in (own, linked):
        data.setup()
    for one, other in ((own.train, linked.train), (own.val, linked.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
