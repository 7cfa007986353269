"""Runs that early stopping ended, and those that continue from them."""

from pathlib import Path

import pytest

from lightning_cifar import main
from lightning_cifar.train.checkpoint import load_checkpoint

STOPPING = "--trainer.callbacks"
EARLY = [STOPPING, "EarlyStopping", f"{STOPPING}.monitor", "val/loss"]
SHORT = ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1", "--trainer.log_every_n_steps", "1"]


def fit(*args: object) -> int:
    return main(["fit", *map(str, args)])


def count_steps(run_dir: str) -> int:
    return load_checkpoint(Path(run_dir, "checkpoints/last.ckpt"))["global_step"]


@pytest.mark.slow
def test_run_that_ended_in_its_first_epoch_stays_as_it_is(tiny, capsys):
    """There Lightning's `stopped_epoch` is 0, as of a run that was not stopped."""
    early = [*EARLY, f"{STOPPING}.stopping_threshold", "100", "--trainer.max_epochs", "5"]
    assert fit(*tiny, *SHORT, *early, "--run_dir", "run") == 0
    assert fit("--resume", "run") == 0
    assert "nothing left to train: early stopping ended this run; Stopping threshold" in capsys.readouterr().out
    assert count_steps("run") == 3


@pytest.mark.slow
def test_run_that_trained_on_ends_in_another_way(tiny, capsys):
    """After its patience was raised, or from its checkpoint, it is ended by `max_epochs`, which can be raised."""
    early = [*EARLY, f"{STOPPING}.min_delta", "9"]
    assert fit(*tiny, *SHORT, *early, f"{STOPPING}.patience", 1, "--trainer.max_epochs", 3, "--run_dir", "run") == 0
    assert "ended early: " in capsys.readouterr().out
    other = [*early, f"{STOPPING}.patience", 9, "--trainer.max_epochs", 3, "--ckpt_path", "run/checkpoints/last.ckpt"]
    assert fit(*tiny, *SHORT, *other, "--run_dir", "other") == 0
    assert fit("--resume", "run", f"{STOPPING}.patience", 9) == 0
    assert "ended early" not in capsys.readouterr().out
    assert (count_steps("run"), count_steps("other")) == (9, 9)
    assert fit("--resume", "run", "--trainer.max_epochs", 4) == 0
    assert count_steps("run") == 12


@pytest.mark.slow
def test_a_callback_of_the_user_that_stops_training_is_said(tiny, capsys, monkeypatch):
    """Also before the first step, when Lightning tries the validation: otherwise nothing would say that none is run."""
    code = "from lightning import Callback\nclass Stop(Callback):\n def {}(self, run, _): run.should_stop = True"
    monkeypatch.syspath_prepend(".")
    for name, when, steps in (("first", "validation", "0 steps"), ("second", "train", "3 steps")):
        Path(f"{name}.py").write_text(code.format(f"on_{when}_epoch_end"))
        stop = ["--trainer.callbacks", f"{name}.Stop", "--trust_config", name, "--trainer.max_epochs", 3]
        assert fit(*tiny, *SHORT, *stop, "--run_dir", name) == 0
        assert f"ended early: a callback set trainer.should_stop after {steps}" in capsys.readouterr().out
