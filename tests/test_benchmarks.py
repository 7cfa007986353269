"""The studies say what they say: their forms are settings of the command line."""

import json
import shutil
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from lightning_cifar import CIFAR10DataModule, main

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def modules_of_benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture(scope="module")
def study():
    return import_module("study")


def configuration(capsys, typed):
    assert main(["fit", *typed.split(), "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("script", sorted(file.stem for file in BENCHMARKS.glob("*.py")))
def test_every_benchmark_finds_what_it_measures(script):
    """What it imports, and what it puts a clock on."""
    parts = getattr(import_module(script), "PARTS", {})
    assert all(hasattr(owner, name) for owner, names in parts.values() for name in names)


@pytest.mark.slow
def test_the_wide_branch_costs_what_three_do(study, tmp_path, capsys):
    costs = []
    for form in ("ReLU, as reported", "none: one branch, a tenth wider"):
        config = configuration(capsys, study.STUDIES["gates"].forms[form])
        run_dir = tmp_path / str(len(costs)) / "seed0"
        run_dir.mkdir(parents=True)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        costs.append(study.megaflop(run_dir.parent))
    assert costs[1] == pytest.approx(costs[0], rel=0.02)


def test_a_study_goes_on_without_the_seeds_that_diverge(study, tmp_path, monkeypatch, capsys):
    """`repeat` trains the others and ends with status 3, or, if every seed diverged, writes no summary."""
    forms = dict.fromkeys(("plain", "wild", "single", "none", "after"), "--recipe fast")
    diverged = {"0": [], "1": [2], "2": [0, 1], "3": [0, 1, 2], "4": []}

    def repeat(args):
        run_dir = Path(args[args.index("--run_dir") + 1])
        lost = diverged[run_dir.name]
        seeds = [{"seed": seed, **dict.fromkeys(study.MEASURES, 0.5 + 0.01 * seed)} for seed in {0, 1, 2} - {*lost}]
        means = {key: {"mean": 0.5, "std": 0.01 if seeds[1:] else None} for key in study.MEASURES}
        result = {"n": len(seeds), "seeds": seeds, "diverged": [{"seed": seed} for seed in lost], **means}
        run_dir.mkdir(exist_ok=True)
        for seed in lost:
            (run_dir / f"seed{seed}.json").write_text(json.dumps({"seed": seed, "diverged": "a loss"}))
        if seeds:
            (run_dir / "repeat.json").write_text(json.dumps(result | {"train_seconds": {"median": 9}}))
        return 3 if lost else 0

    monkeypatch.setitem(study.STUDIES, "wild", study.Study("Does it?", "first", forms))
    monkeypatch.setattr(study, "main", repeat)
    monkeypatch.setattr(study, "megaflop", lambda _: 1.0)
    monkeypatch.setattr(import_module("formatting"), "RESULTS", tmp_path)
    study.run("wild", "data", 3, tmp_path, False, [])
    table = capsys.readouterr().out
    assert "wild (n = 2; diverged: 2)" in table
    assert "single (n = 1; diverged: 0, 1)" in table
    assert "none (n = 0; diverged: 0, 1, 2)" in table
    assert "after" in table.splitlines()[-1]
    assert study.find_differing(study.load_result("wild"), "accuracy") == set()
    diverged["0"] = [0, 1, 2]  # the one that the others are compared with
    shutil.rmtree(tmp_path / "0")
    study.run("wild", "data", 3, tmp_path, False, [])
    assert "difference" not in study.load_result("wild")["forms"]["after"]
    monkeypatch.setattr(study, "main", lambda _: 2)
    shutil.rmtree(tmp_path / "0")
    with pytest.raises(SystemExit, match="2"):
        study.run("wild", "data", 3, tmp_path, False, [])


def test_held_out_are_the_validation_images(image_folder, tmp_path):
    shutil.rmtree(image_folder / "val")
    import_module("held_out").link(image_folder, tmp_path / "held_out", size=6)
    own = CIFAR10DataModule("folder", root=image_folder, val_size=6)
    linked = CIFAR10DataModule("folder", root=tmp_path / "held_out", held_out="test")
    for data in (own, linked):
        data.setup()
    for one, other in ((own.train, linked.train), (own.val, linked.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


PEER = """
import time
print("|  run     |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |")
for run in range(COUNT):
    print(f"|  {run}     |  7      |     0.9300  |   0.9300  |               |        3.0000  |")
    print(f"|          |   eval  |     0.9400  |   0.9300  |       0.9400  |        3.1000  |", flush=True)
    print("Mean accuracy:", end="\\r", flush=True)
print("stuck", flush=True)
time.sleep(60)
"""
READING = """
import torch
assert all(torch.load(f"cifar10/{part}.pt")["images"].shape[1:] == (32, 32, 3) for part in ("train", "test"))
"""


@pytest.fixture
def write_peer(tmp_path):
    def write(name, count, beginning=""):
        script = tmp_path / name
        script.write_text(beginning + PEER.replace("COUNT", str(count)))
        return script

    return write


@pytest.fixture
def gpu():
    return import_module("gpu")


def measure(gpu, tmp_path, *options):
    out = tmp_path / "gpu.json"
    gpu.main(["--dry", "--out", str(out), *map(str, options)])
    return json.loads(out.read_text())["stages"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:replay is off")
def test_every_stage_on_a_gpu_is_measured(gpu, tmp_path, write_peer, monkeypatch):
    peers = write_peer("airbench94_muon.py", 9, READING), write_peer("cifar10_speedrun.py", 4, READING)
    stages = measure(gpu, tmp_path, "--peers", *peers)
    assert [*stages] == [stage.name for stage in gpu.STAGES]
    assert "error" not in {
        name for stage in stages.values() for row in (stage, *stage["rows"].values()) for name in row
    }
    assert {"fast94 1000, replayed", "fast94 1000, eager", "fast94 1000, kernels"} <= set(stages["step"]["rows"])
    assert stages["peer"]["rows"]["airbench94_muon.py"]["accuracy"] == [0.94] * 8
    tables = import_module("gpu_tables")
    for module in (tables, sys.modules["formatting"]):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    others = ("gpu_choices", "gpu_stages", "gpu_batches")  # of results that other commands wrote
    made = {name: table() for name, table in tables.TABLES.items() if name not in others}
    assert "94.0 % was not reached" in made["gpu_targets"]
    assert all("not measured" not in made[name] for name in ("gpu_targets", "gpu_card"))
    assert made["gpu_fits"].count("not measured") == 3  # `fast` is not tried


def test_a_run_of_a_peer_has_its_seconds_of_training():
    lines = ["| epoch | tta_val_acc | time_seconds |", "| 7 | | 3.0000 |", "| eval | 0.9400 | 3.1000 |", "Mean: 0.9400"]
    (run,) = import_module("peer_script").read_runs(lines)
    assert (run["tta_val_acc"], run["time_seconds"], run["training_seconds"]) == ("0.9400", "3.1000", "3.0000")


@pytest.mark.long
def test_an_error_on_a_gpu_is_kept_and_the_next_stage_follows(gpu, tmp_path, write_peer, monkeypatch):
    def fail(measurement):
        measurement.attempt("row", lambda: {"seconds": 1 / 0})
        raise RuntimeError("a stage fails")

    peer = partial(gpu.measure_peer, number=0, runs=8, limit=3)
    monkeypatch.setattr(gpu, "STAGES", [gpu.Stage("card", fail, 0, 60), gpu.Stage("peer", peer, 0, 60)])
    found = measure(gpu, tmp_path, "--peers", write_peer("peer.py", 3))
    assert "ZeroDivisionError" in found["card"]["rows"]["row"]["error"]
    assert "a stage fails" in found["card"]["error"]
    row = found["peer"]["rows"]["peer.py"]
    assert (row["n"], row["seconds"]) == (2, [3.1, 3.1])
    assert row["error"].startswith("ended after 2 runs")
    assert "stuck" in row["error"]


def test_a_lost_gpu_and_a_stage_that_hangs_need_a_new_process(gpu, tmp_path, monkeypatch):
    def lose(measurement):
        raise sys.modules["measurement"].DeviceLostError

    def hang(measurement):
        while len(started) < 2:
            time.sleep(0.01)

    started = []
    monkeypatch.setattr(gpu, "restart", lambda stages, seconds: started.append(stages))
    stages = [("card", lose, 60), ("step", hang, 0.1), ("fits", lambda measurement: None, 60)]
    monkeypatch.setattr(gpu, "STAGES", [gpu.Stage(name, measure, 0, limit) for name, measure, limit in stages])
    found = measure(gpu, tmp_path)
    assert started == [["step", "fits"], ["fits"]]
    assert found["step"]["error"] == "ended by the clock"


@pytest.mark.slow
def test_stages_on_a_gpu_end_in_time_and_keep_earlier_rows(gpu, tmp_path, monkeypatch):
    assert [*measure(gpu, tmp_path, "--stages", "card")] == ["card"]
    monkeypatch.setattr(gpu.Stage, "_replace", lambda stage, needed: stage)  # as without --dry
    stages = measure(gpu, tmp_path, "--stages", "step", "--seconds", 30)
    assert [*stages] == ["card"]
