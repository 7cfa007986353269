"""LastCheckpoint: when it saves at the end of an epoch, and that last.ckpt holds the last state of any training."""

import json
from types import SimpleNamespace

import pytest

from lightning_cifar import InputError, LastCheckpoint, main
from lightning_cifar.run import last_checkpoint
from lightning_cifar.train.checkpoint import load_checkpoint

CALLBACKS = "--trainer.callbacks"


@pytest.mark.parametrize(
    ("seconds", "minutes", "epochs"),
    [
        pytest.param(10, None, [3, 6, 7], marks=pytest.mark.slow),
        pytest.param(29.9, None, [2, 4, 5], marks=pytest.mark.slow),
        (30, None, [1, 2, 3]),
        (4, "0.1", [2, 4, 5]),
    ],
)
def test_an_epoch_is_saved_if_30_seconds_have_passed_or_training_ends(
    tiny, tmp_path, monkeypatch, seconds, minutes, epochs
):
    """For epochs of ``seconds``; an interval within epochs that is shorter than 30 s holds at their ends too."""
    now, saved = [0.0], []
    save, after_epoch = LastCheckpoint.save, LastCheckpoint.after_epoch

    def pass_time(callback):
        now[0] += seconds
        after_epoch(callback)

    def save_and_count(callback):
        save(callback)
        saved.append(callback.trainer.current_epoch)

    monkeypatch.setattr(last_checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(LastCheckpoint, "after_epoch", pass_time)
    monkeypatch.setattr(LastCheckpoint, "save", save_and_count)
    options = ["--trainer.max_epochs", str(epochs[-1]), "--trainer.limit_train_batches", "1"]
    options += ["--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "1"]
    if minutes:
        options += [CALLBACKS, "lightning_cifar.LastCheckpoint", f"{CALLBACKS}.minutes", minutes]
    assert main(["fit", *tiny, *options, "--run_dir", str(tmp_path / "run")]) == 0
    assert saved == epochs


ENDS = {
    "max_epochs": (["--trainer.max_epochs", "2"], 10),
    "max_steps within an epoch": (["--trainer.max_steps", "7"], 7),
    "EarlyStopping": ([CALLBACKS, "EarlyStopping", f"{CALLBACKS}.monitor", "val/loss",
                       f"{CALLBACKS}.stopping_threshold", "100"], 5),
    "max_time": (["--trainer.max_time", "00:00:00:01"], None),
}  # fmt: skip


@pytest.mark.parametrize(
    "end", [pytest.param(end, marks=pytest.mark.slow if end == "max_time" else []) for end in ENDS]
)
def test_last_checkpoint_holds_the_last_state(tiny, tmp_path, end):
    options, steps = ENDS[end]
    run_dir = tmp_path / "run"
    assert main(["fit", *tiny, "--trainer.max_epochs", "1000", *options, "--run_dir", str(run_dir)]) == 0
    trained = json.loads((run_dir / "run.json").read_text())["timings"]["steps"]
    assert load_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == trained > 0
    assert steps in (trained, None)


def test_negative_minutes_are_refused():
    with pytest.raises(InputError, match="minutes must be at least 0, got -1"):
        LastCheckpoint(minutes=-1)
