"""A run directory stands for its best checkpoint, and a run knows its tests, wherever both lie."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lightning_cifar import main
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint
from tests.command_line import run


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", pytest.param("checkpoints", marks=pytest.mark.slow)])
def test_a_run_directory_is_a_checkpoint(trained, capsys, tmp_path, drawn_folder, below):
    status, *_ = run(capsys, "test", "--ckpt_path", trained / below, "--run_dir", tmp_path / "test")
    named = json.loads((tmp_path / "test/test.json").read_text())["checkpoint"]
    assert (status, (tmp_path / "test" / named).resolve()) == (0, trained / "checkpoints/best.ckpt")
    image = drawn_folder / "cat/0000.jpg"
    of_directory, of_file = (
        run(capsys, "predict", "--ckpt_path", path, "--images", image)
        for path in (trained / below, trained / "checkpoints/best.ckpt")
    )
    assert (of_directory[0], of_directory) == (0, of_file)
    assert main(["export", "--ckpt_path", str(trained / below), "--output", str(tmp_path / "x.safetensors")]) == 0


@pytest.mark.slow
def test_a_run_without_best_has_its_last(trained, capsys, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/checkpoints/best.ckpt").unlink()
    assert run(capsys, "validate", "--ckpt_path", tmp_path / "run")[0] == 0


@pytest.mark.parametrize(
    "command", [["test"], ["predict", "--images", "x"], ["export", "--output", "x.pt2"], ["serve"]]
)
def test_another_directory_is_refused_in_one_line(capsys, tmp_path, command):
    (tmp_path / "empty").mkdir()
    args = ["--port", "0"] if command == ["serve"] else []
    words = "it holds no checkpoints/best.ckpt: name a run directory of fit"
    assert run(capsys, *command, *args, "--ckpt_path", "empty")[::2] == (2, f"error: --ckpt_path empty: {words}\n")


def test_other_paths_of_a_run_get_a_hint(trained, capsys):
    shutil.copytree(trained, "runs/seed1")
    for command in (["test"], ["predict", "--images", "x"], ["fit"]):
        words = "no such file: name a run directory, or its checkpoints/best.ckpt"
        assert run(capsys, *command, "--ckpt_path", "best")[::2] == (2, f"error: --ckpt_path best: {words}\n")
        assert run(capsys, *command, "--ckpt_path", "runs")[2].endswith("a run directory of fit, such as runs/seed1\n")
    assert run(capsys, "fit", "--resume", "runs")[2].endswith("no config.yaml; did you mean runs/seed1?\n")


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_file_is_no_checkpoint(capsys, tmp_path, suffix):
    file = tmp_path / f"model{suffix}"
    file.touch()
    for command in (["test"], ["predict", "--images", "x"], ["export", "--output", "y.pt2"], ["serve", "--port", "0"]):
        status, _, err = run(capsys, *command, "--ckpt_path", file)
        words = "is an exported file: name the checkpoint, or export it as .safetensors"
        assert (status, err) == (2, f"error: --ckpt_path {file} {words}\n")


def test_a_device_that_holds_no_values_is_refused(capsys):
    status, _, err = run(capsys, "predict", "--images", "docs", "x.jpg", "--device", "meta")
    assert (status, err.startswith("error: --device meta: ")) == (2, True)


@pytest.mark.slow
def test_images_are_classified_by_the_pretrained_model_unless_another_is_named(capsys, drawn_folder):
    args = ["predict", "--images", drawn_folder / "cat/0000.jpg"]
    assert run(capsys, *args) == run(capsys, *args, "--ckpt_path", "pretrained")


@pytest.mark.slow
@pytest.mark.parametrize("where", [pytest.param("runs/test/one", marks=pytest.mark.slow), "elsewhere/a test"])
def test_report_and_card_find_a_test_wherever_it_lies(trained, capsys, tmp_path, where):
    shutil.copytree(trained, "demo/run")
    assert run(capsys, "test", "--ckpt_path", "demo/run", "--run_dir", where)[0] == 0
    assert run(capsys, "report", "demo/run")[1] == "report: demo/run/report/report.html\n"
    assert "test accuracy, %" in (tmp_path / "demo/run/report/report.html").read_text()
    assert run(capsys, "export", "--ckpt_path", "demo/run", "--output", "x.safetensors")[0] == 0
    assert "Not tested" not in (tmp_path / "x.safetensors.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["test", "predict", *(pytest.param(one, marks=pytest.mark.slow) for one in ("validate", "export", "fit"))],
)
def test_checkpoints_of_other_networks_and_without_numbers(trained, capsys, tmp_path, tiny, command):
    checkpoint = load_checkpoint(trained / "checkpoints/last.ckpt")
    weights = checkpoint["state_dict"]
    first = next(iter(weights))
    for name, changed in (
        ("other", {f"network.conv{number}.weight": torch.ones(3) for number in range(500)}),
        ("nan", weights | {first: torch.full_like(weights[first], torch.nan)}),
        ("infinite", weights | {first: torch.full_like(weights[first], torch.inf)}),
    ):
        save_checkpoint(checkpoint | {"state_dict": changed}, tmp_path / f"{name}.ckpt")
        args = {"export": ["--output", f"{name}.safetensors"], "fit": tiny}.get(command, [])
        status, _, err = run(capsys, command, *args, "--ckpt_path", f"{name}.ckpt")
        words = "another network" if name == "other" else "weights that are NaN or infinite: name an earlier checkpoint"
        assert (status, len(err.splitlines())) == (2, 1)
        assert words in err or "holds no model of this package" in err
        assert len(err) < 250
    assert not (tmp_path / "runs").exists()


def test_commands_are_printed_as_they_are_typed(trained, capsys):
    for name, quoted in (("my run", "'my run'"), ("-x", "./-x"), ("file:", "file:")):
        shutil.copytree(trained, name, ignore=shutil.ignore_patterns("tests.json"))
        _, out, _ = run(capsys, "report", "--output", "out", "--", name)
        assert out.splitlines()[0].endswith(f"was not tested: python -m lightning_cifar test --ckpt_path {quoted}")


def test_the_command_that_tests_a_run_has_its_data_and_the_packages_to_trust(trained, capsys):
    shutil.copytree(trained, "run", ignore=shutil.ignore_patterns("tests.json"))
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["data"] |= {"root": "my images", "labels": "-x.csv"}
    config["model"]["optimizer"] = "mine.optim:build"
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads(Path("run/run.json").read_text())
    record["command"] += ["--trust_config=mine"]
    Path("run/run.json").write_text(json.dumps(record))
    _, out, _ = run(capsys, "report", "run")
    options = "--data.root 'my images' --data.labels ./-x.csv --trust_config mine"
    assert out.splitlines()[0].endswith(f" test --ckpt_path run {options}")
