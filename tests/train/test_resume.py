"""A run that was stopped and resumed is, to the bit, the run that was not; times aside."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from lightning_cifar import LastCheckpoint, main
from lightning_cifar.train.durable import load_checkpoint

SMALL = ["--data.dataset", "digits", "--data.batch_size", "400", "--model.widths", "[4,4,8,8,8]"]
SMALL += ["--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1", "--trainer.precision", "32-true"]
OFTEN = ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0"]
FORMS = {
    "Adam, dropout, the test set watched": ["--recipe", "report"],
    "Muon, schedule, alternating flips": ["--recipe", "fast94", "--data.crop_padding", "2"],
    "validation within an epoch": ["--recipe", "report", "--data.held_out", "val", "--trainer.val_check_interval", "2"],
    "accumulated gradients": ["--recipe", "report", "--trainer.accumulate_grad_batches", "2"],
    "an end within an epoch": ["--recipe", "fast", "--trainer.max_steps", "10"],
    "averaged weights": ["--recipe", "report", "--trainer.callbacks+", "lightning_cifar.EMA"],
    "lookahead": ["--recipe", "report", "--trainer.callbacks+", "lightning_cifar.Lookahead"],
}


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as opened:
        return [
            {name: value for name, value in row.items() if value and not name.startswith("time/")}
            for row in csv.DictReader(opened)
        ]


def assert_same(one: object, other: object, path: str = "") -> None:
    if path.endswith((".Throughput", ".current_score")):  # times; what ModelCheckpoint does not read again
        return
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{place}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_is_the_one_that_was_never_stopped(form, tmp_path, monkeypatch):
    run_dir, copies = tmp_path / "run", []
    save = LastCheckpoint.save

    def save_and_copy(callback: LastCheckpoint) -> None:
        save(callback)
        copies.append(tmp_path / f"copy{len(copies)}")
        shutil.copytree(run_dir, copies[-1])

    recipe, name, *rest = FORMS[form]
    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "save", save_and_copy)
        assert main(["fit", recipe, name, *SMALL, *OFTEN, *rest, "--run_dir", str(run_dir)]) == 0
    expected, expected_rows = load_checkpoint(run_dir / "checkpoints/last.ckpt"), rows(run_dir)
    assert len(copies) >= 6
    for copy in copies[1:-1:3]:  # within an epoch and at its end, as 3 and 4 saves an epoch have it
        shutil.rmtree(run_dir)
        shutil.copytree(copy, run_dir)
        assert main(["fit", "--resume", str(run_dir)]) == 0
        assert_same(load_checkpoint(run_dir / "checkpoints/last.ckpt"), expected)
        assert rows(run_dir) == expected_rows
        lines = (run_dir / "metrics.csv").read_bytes().splitlines(keepends=True)
        assert {line[-2:] for line in lines} == {b"\r\n"}  # the kept ones too
