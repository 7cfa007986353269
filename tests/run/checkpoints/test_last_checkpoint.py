"""LastCheckpoint: when it saves at the end of an epoch, and that last.ckpt holds the last state of any training."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_cifar import (
    CIFAR10DataModule,
    ImageClassifier,
    InputError,
    LastCheckpoint,
    LiveFigure,
    Progress,
    Throughput,
    main,
)
from lightning_cifar.run.checkpoints import last_checkpoint
from lightning_cifar.train.checkpoint import load_checkpoint

CALLBACKS = "--trainer.callbacks"


@pytest.mark.slow
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
    "max_epochs": (["--trainer.max_epochs", "2"], 4),
    "max_steps within an epoch": (["--trainer.max_steps", "3"], 3),
    "EarlyStopping": ([CALLBACKS, "EarlyStopping", f"{CALLBACKS}.monitor", "val/loss",
                       f"{CALLBACKS}.stopping_threshold", "100"], 2),
    "max_time": (["--trainer.max_time", "00:00:00:01"], None),
}  # fmt: skip


@pytest.mark.slow
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


def test_a_save_that_fails_is_not_taken_for_an_epochs_end_later(monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    callback = LastCheckpoint()
    monkeypatch.setattr(LastCheckpoint, "save", fail)
    with pytest.raises(OSError, match="No space"):
        callback.save_after_epoch()
    assert not callback.epoch_over


def test_times_that_are_negative_or_no_numbers_are_refused():
    with pytest.raises(InputError, match="minutes must be at least 0, got -1"):
        LastCheckpoint(minutes=-1)
    for callback in (LiveFigure, Progress):
        with pytest.raises(InputError, match="interval must be a number, got 'x'"):
            callback(interval="x")


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGHUP, signal.SIGHUP, signal.SIGHUP], 129),
        pytest.param([signal.SIGTERM, signal.SIGHUP], 143, marks=pytest.mark.slow),
    ],
)
def test_copies_of_a_signal_do_not_cut_off_the_save(tiny, monkeypatch, sent, status):
    """`timeout` sends SIGTERM twice, a terminal that closes SIGHUP, and a session that ends both."""
    monkeypatch.setattr(Throughput, "on_train_batch_end", lambda *_: [*map(signal.raise_signal, sent)])
    assert main(["fit", *tiny, "--run_dir", "run"]) == status
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
def test_a_second_signal_of_a_user_ends_training_at_once(tiny, monkeypatch):
    monkeypatch.setattr(last_checkpoint, "COPY_SECONDS", 0)
    monkeypatch.setattr(Throughput, "on_train_batch_end", lambda *_: [*map(signal.raise_signal, [signal.SIGINT] * 2)])
    assert main(["fit", *tiny, "--run_dir", "run"]) == 130
    assert not Path("run/checkpoints/last.ckpt").exists()


@pytest.mark.slow
def test_a_request_to_stop_between_accumulated_batches_is_kept(tiny, monkeypatch):
    """Of five batches, in groups of two; the third is half a group."""

    def ask(callback, trainer, *_):
        if trainer.fit_loop.total_batch_idx == 2:
            trainer.should_stop = True

    monkeypatch.setattr(Throughput, "on_train_batch_end", ask)
    options = ["--trainer.limit_train_batches", "5", "--trainer.accumulate_grad_batches", "2"]
    assert main(["fit", *tiny, *options, "--trainer.max_epochs", "2", "--run_dir", "run"]) == 0
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 2


# In Python, with Lightning's Trainer.


def make_trainer(run_dir, *callbacks):
    return Trainer(
        max_epochs=1, accelerator="cpu", limit_train_batches=1, limit_test_batches=1, log_every_n_steps=1,
        logger=CSVLogger(run_dir, name="", version=""), callbacks=[LastCheckpoint(), *callbacks],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def make_best():
    return ModelCheckpoint(monitor="val/accuracy", mode="max", filename="best")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*called with Trainer configured with multiple")
@pytest.mark.parametrize("callbacks", [[], [make_best]], ids=["last", "best"])
def test_trainer_tests_the_best_checkpoint(tmp_path, callbacks):
    trainer = make_trainer(tmp_path / "run", *(make() for make in callbacks))
    data = CIFAR10DataModule("digits", batch_size=500)
    trainer.fit(ImageClassifier(widths=[4, 4, 8, 8, 8]), data)
    trainer.test(datamodule=data, ckpt_path="best", verbose=False)
    assert Path(trainer.ckpt_path).name == ("best.ckpt" if callbacks else "last.ckpt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Experiment logs directory")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_scores_survive_a_resume_by_another_path():
    data = CIFAR10DataModule("digits", batch_size=500)
    scores = []
    for run_dir, checkpoint in (("run", None), (Path("run").resolve(), "run/checkpoints/last.ckpt")):
        best = make_best()
        make_trainer(run_dir, best).fit(ImageClassifier(widths=[4, 4, 8, 8, 8]), data, ckpt_path=checkpoint)
        scores.append(best.best_model_score)
    assert scores[1] == scores[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("stops", [True, False], ids=["Ctrl-C", "reader ends"])
def test_training_is_saved_if_the_reader_of_its_output_ends(tiny, monkeypatch, stops):
    """As `tee` does by the same Ctrl-C, here in a validation."""
    reading, writing = os.pipe()
    stream = io.TextIOWrapper(open(writing, "wb", 0), write_through=True)  # noqa: SIM115

    def end(callback, trainer, *_):
        if not trainer.sanity_checking:
            os.close(reading)
            if stops:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Throughput, "on_validation_start", end, raising=False)
    with monkeypatch.context() as patched:
        for name in ("stdout", "stderr"):
            patched.setattr(sys, name, stream)
        status = main(["fit", *tiny, "--trainer.max_epochs", "2", "--run_dir", "run"])
        assert (sys.stdout, sys.stderr) == (stream, stream)
    assert status == (130 if stops else 141)
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 2
    stream.close()
