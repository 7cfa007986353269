"""`tune` by the command line, on digits: what it prints can be typed, and nothing else is left behind."""

import json
import shlex

import pytest
import torch
import yaml

from lightning_cifar import main
from lightning_cifar.commands import finders
from lightning_cifar.train.classifier import ImageClassifier


def run(capsys, *args):
    """Exit status, standard output, standard error."""
    status = main([str(argument) for argument in args])
    return status, *capsys.readouterr()


def test_both_finders_say_what_to_type(tmp_path, tiny, capsys, monkeypatch):
    monkeypatch.setattr(finders, "STEPS", 30)
    rates = ["--model.optimizer", "muon", "--model.learning_rate", "0.01", "--model.norm_rate", "1"]
    args = [*tiny, *rates, "--model.schedule", "triangular", "--data.held_out", "test"]
    status, out, err = run(capsys, "tune", *args, "--lr", "--batch_size", "100", "--run_dir", tmp_path / "run")
    assert (status, err) == (0, "")
    assert "batch size: 64 fits, the last that was tried" in out
    assert {file.name for file in (tmp_path / "run").iterdir()} == {".lock", "config.yaml", "rates.json", "rates.png"}
    found = json.loads((tmp_path / "run/rates.json").read_text())
    assert found["own"] == 0.01
    assert found["rates"][0] == pytest.approx(1e-5)
    assert found["rates"][-1] <= 10
    assert len(found["rates"]) == len(found["losses"]) <= 30
    command = shlex.split(out.splitlines()[-1])
    assert command[: 4 + len(args)] == ["python", "-m", "lightning_cifar", "fit", *args]
    assert main([*command[3:], "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["batch_size"] == 64
    assert config["model"]["learning_rate"] == pytest.approx(found["suggested"], rel=0.01)
    assert config["model"]["norm_rate"] == pytest.approx(100 * found["suggested"], rel=0.01)


@pytest.mark.slow
def test_the_batch_size_is_the_last_that_memory_allows(tmp_path, tiny, capsys, monkeypatch):
    step = ImageClassifier.training_step

    def limited(self, batch, batch_idx):
        if len(batch[0]) > 32:
            raise RuntimeError("CUDA out of memory.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", limited)
    status, out, _ = run(capsys, "tune", *tiny, "--batch_size", "256", "--run_dir", tmp_path / "run")
    assert (status, "batch size: 32 fits, memory allows no more" in out) == (0, True)
    assert out.endswith(f"fit {shlex.join(tiny)} --data.batch_size 32\n")


def test_rates_keep_their_ratio_in_each_step():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 5.0}])
    assert finders.in_proportion(lambda: {"optimizer": optimizer})()["optimizer"] is optimizer
    for group in optimizer.param_groups:
        group["lr"] = 0.02  # as Lightning's finder does
    for weight in weights:
        weight.grad = torch.ones(1)
    optimizer.step()
    assert [-weight.item() for weight in weights] == pytest.approx([0.02, 1.0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--batch_size", "8"], "--batch_size 8: the limit must be at least 16, where the search begins"),
        (["--batch_size", "x"], "tune: argument --batch_size: invalid int value: 'x'"),
        (["--ckpt_path", "x"], "--ckpt_path: tune trains a few steps from the start, and keeps nothing of them"),
        (["--recipe", "dem"], "no recipe 'dem': did you mean demo? There are accurate, demo, fast, fast94, report"),
        (["--lr", "--model.width", "[1]"], "no option --model.width: did you mean --model.widths?"),
    ],
)
def test_bad_input_is_one_line(capsys, args, message):
    assert run(capsys, "tune", *args) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trainer.devices", "2"], "--trainer.devices 2: tune works without, in one process"),
        (["--trainer.fast_dev_run", "true"], "--trainer.fast_dev_run True: tune works without, in one process"),
        (
            ["--batch_size"],
            "--batch_size: on a CPU too large a batch is no error but the end of the process, so the search needs a "
            "limit: --batch_size 2048, say",
        ),
    ],
)
def test_what_the_finders_cannot_do(capsys, tiny, tmp_path, args, message):
    status, _, err = run(capsys, "tune", *tiny, *args, "--run_dir", tmp_path / "run")
    assert (status, err) == (2, f"error: {message}\n")
    assert not (tmp_path / "run/config.yaml").exists()
