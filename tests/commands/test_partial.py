"""A partial test is called partial, an empty one is refused, and a temperature that does not help is named."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_cifar.commands.test import is_complete
from lightning_cifar.evaluate import evaluation
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint
from tests.command_line import run


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [["--trainer.limit_test_batches", "1"], pytest.param(["--trainer.fast_dev_run", "true"], marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_partial_test_is_called_partial(trained, capsys, tmp_path, option):
    shutil.copytree(trained, "run")
    args = ["--ckpt_path", "run", "--data.eval_batch_size", "50", *option, "--run_dir", "test"]
    status, out, _ = run(capsys, "test", *args)
    assert (status, "\npartial test: 50 of 360 test images\n" in out) == (0, True)
    assert json.loads((tmp_path / "test/test.json").read_text())["test_images"] == 360
    assert run(capsys, "report", "run")[1].startswith("note: test/test.json is a partial test, of 50 of 360 test")
    assert "images of the partial test</th>\n<td>50</td>" in (tmp_path / "run/report/report.html").read_text()
    assert run(capsys, "export", "--ckpt_path", "run", "--output", "x.safetensors")[0] == 0
    assert "on 50 of 360 test images, 95 % interval" in (tmp_path / "x.safetensors.md").read_text()


@pytest.mark.slow
def test_a_complete_test_is_reported_before_a_newer_partial_one(trained, capsys, tmp_path):
    shutil.copytree(trained, "run")
    for name, limit in (("complete", "1.0"), ("partial", "1")):
        args = ["--ckpt_path", "run", "--data.eval_batch_size", "50", "--trainer.limit_test_batches", limit]
        assert run(capsys, "test", *args, "--run_dir", name)[0] == 0
    assert "partial" not in run(capsys, "report", "run")[1]
    assert "images of the partial test" not in (tmp_path / "run/report/report.html").read_text()


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [("test", "test", "0"), ("test", "test", "0.5"), ("predict", "predict", "0"), ("validate", "val", "0")],
)
def test_a_limit_of_no_batch_leaves_nothing_behind(trained, capsys, tmp_path, command, option, value):
    name = f"--trainer.limit_{option}_batches"
    status, out, err = run(capsys, command, "--ckpt_path", trained, name, value)
    assert (status, out, err) == (2, "", f"error: {name} {value} leaves no image: set at least 1 of 1 batch\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "helps"), [(0.001, False), (None, True)])
def test_a_temperature_that_does_not_help_is_named(trained, capsys, tmp_path, monkeypatch, temperature, helps):
    """Of a model that is far too sure."""
    checkpoint = Path(shutil.copytree(trained, "run"), "checkpoints/best.ckpt")
    content = load_checkpoint(checkpoint)
    content["state_dict"]["network.classifier.5.weight"] *= 99
    save_checkpoint(content, checkpoint)
    if temperature:
        monkeypatch.setattr(evaluation, "fit_temperature", lambda *_: temperature)
    _, out, _ = run(capsys, "test", "--ckpt_path", "run")
    assert ("makes the loss and calibration error worse: do not use it" in out) == (not helps)
    assert run(capsys, "export", "--ckpt_path", "run", "--output", "x.safetensors")[0] == 0
    assert ("divide the logits" in (tmp_path / "x.safetensors.md").read_text()) == helps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("validate", [], ""),
        pytest.param("test", [], "", marks=pytest.mark.slow),
        pytest.param("validate", ["--data.held_out", "test"], "", marks=pytest.mark.slow),
        ("test", ["--data.split_seed", "5"], "--data.split_seed 5, in training 0"),
        ("validate", ["--data.val_size", "500"], "--data.val_size 500, in training 100"),
    ],
)
def test_validation_images_that_were_trained_on_get_a_warning(trained, capsys, command, options, words):
    """A validation, and a test that fits its temperature on them, would look better than they are."""
    status, out, _ = run(capsys, command, "--ckpt_path", trained, *options)
    assert (status, "may have been trained on" in out) == (0, bool(words))
    assert words in out


@pytest.mark.parametrize(
    ("limit", "dry", "complete"),
    [(None, False, True), (1.0, False, True), (1, False, False), (0.5, False, False), (None, 1, False)],
)
def test_a_limit_of_1_is_a_batch(limit, dry, complete):
    job = SimpleNamespace(trainer={"limit_test_batches": limit, "fast_dev_run": dry})
    assert is_complete(job) == complete
