"""run.json: command, versions, device, commit, data and timings of a run."""

import json
import os
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from lightning_cifar import InputError, Throughput, main
from lightning_cifar.run.records import run_json
from lightning_cifar.run.records.run_json import check_same_data, find_commit
from lightning_cifar.sources.digits import load_digits


def test_run_json_describes_the_run(trained, tiny):
    written = json.loads((trained / "run.json").read_text())
    assert (written["seed"], written["recipe"], written["stage"], written["precision"]) == (0, "demo", "fit", "32-true")
    assert written["command"] == ["python", "-m", "lightning_cifar", "fit", *tiny, "--run_dir", str(trained)]
    assert written["versions"]["torch"] == version("torch")
    assert (written["device"]["type"], written["device"]["cores"]) == ("cpu", os.cpu_count())
    assert 1 <= written["device"]["threads"] <= os.cpu_count()
    assert written["data"]["fingerprint"] == load_digits().fingerprint()
    assert (written["data"]["train"], written["data"]["val"], written["data"]["test"]) == (1337, 100, 360)
    assert (written["timings"]["epochs"], written["timings"]["steps"]) == (1, 2)
    assert written["timings"]["total_seconds"] > written["timings"]["fit_seconds"] > 0
    assert not list(trained.rglob("*.partial"))


def test_commit_is_that_of_the_checkout_of_the_package(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    monkeypatch.setattr(run_json, "__file__", str(package / "run_json.py"))
    assert find_commit() is None
    git = ["git", "-C", str(package), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (package / "run_json.py").write_text("1")
    (package / "other.py").write_text("1")
    for command in (["init", "-q"], ["add", "other.py"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    assert find_commit() is None  # installed inside another checkout, which does not track it
    for command in (["add", "."], ["commit", "-q", "-m", "two"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert find_commit() == commit
    (package / "run_json.py").write_text("2")
    assert find_commit() == commit + "-dirty"


def read_times(run_dir):
    timings = json.loads((run_dir / "run.json").read_text())["timings"]
    return timings["fit_seconds"], timings["total_seconds"]


@pytest.mark.slow
def test_fit_seconds_cover_validation_and_all_parts_of_a_run(tmp_path, tiny, monkeypatch):
    skipped, clock, end = [0], time.perf_counter, Throughput.on_validation_end

    def take_1000_seconds(callback, *args):
        skipped[0] += 1000
        end(callback, *args)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(run_json.time, "perf_counter", lambda: clock() + skipped[0])
        patched.setattr(Throughput, "on_validation_end", take_1000_seconds)
        assert main(["fit", *tiny, "--run_dir", str(run_dir)]) == 0
    first, total = read_times(run_dir)
    assert 1000 <= first < total
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert read_times(run_dir)[0] == first  # nothing was left to train
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "2"]) == 0
    second, total = read_times(run_dir)
    assert first < second < first + total
    written = json.loads((run_dir / "run.json").read_text())
    del written["timings"]  # as after a kill
    (run_dir / "run.json").write_text(json.dumps(written))
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert first < read_times(run_dir)[0] <= second  # up to the last checkpoint
    another = [*tiny, "--ckpt_path", str(run_dir), "--trainer.max_epochs", "3", "--run_dir", str(tmp_path / "another")]
    assert main(["fit", *another]) == 0
    assert read_times(tmp_path / "another")[0] < 1000


@pytest.mark.parametrize("change", [{"train": 9}, {"test": 1}, {"fingerprint": "b"}])
def test_processes_need_the_same_data(change):
    data = {"root": "/a", "train": 8, "val": 2, "test": 2, "fingerprint": "a"}
    check_same_data([data, data | {"root": "/b"}, data])
    check_same_data([None, None])
    ((name, value),) = change.items()
    message = (
        rf"rank 2 holds other data than rank 0 \({name} {value}, not {data[name]}\): give each machine the same files"
    )
    with pytest.raises(InputError, match=message):
        check_same_data([data, data, data | change])


def test_a_checkout_that_is_not_installed_is_named(tiny, monkeypatch, capsys):
    def fail(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(run_json, "version", fail)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 2
    assert capsys.readouterr().err.startswith("error: the package lightning-cifar is not installed: pip install it")
    assert not Path("run").exists()
