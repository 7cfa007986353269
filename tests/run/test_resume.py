"""A run that was stopped and resumed is, to the bit, the run that was not; times aside."""

import csv
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError, LastCheckpoint, main
from lightning_cifar.files import lock
from lightning_cifar.run.settings import layer
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint

SMALL = ["--data.dataset", "digits", "--data.batch_size", "40", "--model.widths", "[4,4,8,8,8]"]
SMALL += ["--trainer.limit_train_batches", "4", "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1"]
SMALL += ["--trainer.precision", "32-true"]
OFTEN = ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0"]
ALIVE = ["--model.gate_rate", "0.002"]  # at the recipes', gates die in batches as small
EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"
FORMS = {
    "Adam, dropout, the test set watched": ["--recipe", "report"],
    "Muon, schedule, alternating flips": ["--recipe", "fast94", *ALIVE],
    "validation within an epoch": ["--recipe", "report", "--data.held_out", "val", "--trainer.val_check_interval", "2"],
    "accumulated gradients": ["--recipe", "report", "--trainer.accumulate_grad_batches", "2"],
    "an end within an epoch": ["--recipe", "fast", "--trainer.max_steps", "10", *ALIVE],
    "averaged weights": ["--recipe", "report", "--trainer.callbacks+", EMA],
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


QUICK = ("Muon, schedule, alternating flips",)


def trained_in_copies(args: list[str], run_dir: Path, monkeypatch) -> list[Path]:
    """Trains in ``run_dir``; a copy of it as each checkpoint has left it."""
    copies = []
    save = LastCheckpoint.save

    def save_and_copy(callback: LastCheckpoint) -> None:
        save(callback)
        copies.append(run_dir.with_name(f"copy{len(copies)}"))
        shutil.copytree(run_dir, copies[-1])

    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "save", save_and_copy)
        assert main(["fit", *args, "--run_dir", str(run_dir)]) == 0
    return copies


def resumed(copy: Path, run_dir: Path) -> dict:
    """The last checkpoint of ``run_dir``, once it has gone on from ``copy``."""
    shutil.rmtree(run_dir)
    shutil.copytree(copy, run_dir)
    assert main(["fit", "--resume", str(run_dir)]) == 0
    return load_checkpoint(run_dir / "checkpoints/last.ckpt")


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form in QUICK else pytest.mark.slow) for form in FORMS]
)
def test_a_resumed_run_is_the_one_that_was_never_stopped(form, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    recipe, name, *rest = FORMS[form]
    copies = trained_in_copies([recipe, name, *SMALL, *OFTEN, *rest], run_dir, monkeypatch)
    expected, expected_rows = load_checkpoint(run_dir / "checkpoints/last.ckpt"), rows(run_dir)
    assert len(copies) >= 6
    for copy in copies[1:-1:5]:
        assert_same(resumed(copy, run_dir), expected)
        assert rows(run_dir) == expected_rows
        lines = (run_dir / "metrics.csv").read_bytes().splitlines(keepends=True)
        assert {line[-2:] for line in lines} == {b"\r\n"}  # the kept ones too


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["report", "fast94", "accurate"])
def test_so_it_is_on_a_gpu(recipe, tmp_path, monkeypatch):
    """Of 100 images a batch, in the recipe's own precision."""
    run_dir = tmp_path / "run"
    options = ["--data.dataset", "digits", "--data.batch_size", "100", "--model.widths", "[8,8,16,16,16]"]
    options += ["--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "5", "--trainer.accelerator", "gpu"]
    try:
        args = ["--recipe", recipe, *options, *OFTEN, "--trainer.deterministic", "true"]
        copies = trained_in_copies(args, run_dir, monkeypatch)
        expected = load_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]
        for copy in copies[len(copies) // 3], copies[-3]:
            found = resumed(copy, run_dir)["state_dict"]
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    finally:
        torch.use_deterministic_algorithms(False)  # Lightning leaves them on


# The runs here are copies: the best checkpoint so far lies in the other directory.
copied = pytest.mark.filterwarnings("default:The dirpath has changed")


@copied
def test_a_run_that_has_ended_says_so(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert "nothing was left to train: this run had ended; a higher --trainer.max_epochs" in capsys.readouterr().out
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "2"]) == 0
    out = capsys.readouterr().out
    assert "changed: --trainer.max_epochs 2, before 1" in out
    assert "2/2" in out


@copied
def test_refused_it_leaves_the_run_as_it_was(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    before = (run_dir / "config.yaml").read_text()
    assert main(["fit", "--resume", str(run_dir), "--trainer.accelerator", "cuda"]) == 2
    assert (run_dir / "config.yaml").read_text() == before


def test_without_a_checkpoint_it_starts_from_the_beginning(trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    shutil.copy(trained / "config.yaml", run_dir)
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert "no checkpoint was written yet" in capsys.readouterr().out
    ours, theirs = (load_checkpoint(one / "checkpoints/last.ckpt")["state_dict"] for one in (run_dir, trained))
    assert_same(ours, theirs)


@copied
def test_of_two_processes_one_trains(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    other = lock(run_dir)
    assert other is not None
    assert main(["fit", "--resume", str(run_dir)]) == 2
    assert f"error: {run_dir} is in use: another process trains in it" in capsys.readouterr().err
    other.release()
    assert main(["fit", "--resume", str(run_dir)]) == 0


@copied
@pytest.mark.filterwarnings("default:.*; trying the checkpoint before")
def test_a_damaged_checkpoint_gives_way_to_the_one_before(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    checkpoints = run_dir / "checkpoints"
    shutil.copy(checkpoints / "last.ckpt", checkpoints / "previous.ckpt")
    (checkpoints / "last.ckpt").write_bytes(b"half")
    assert main(["fit", "--resume", str(run_dir)]) == 0
    out, err = capsys.readouterr()
    assert f"warning: {checkpoints / 'last.ckpt'} is damaged" in err
    assert f"resuming from {checkpoints / 'previous.ckpt'}" in out
    for name in ("last.ckpt", "previous.ckpt"):
        (checkpoints / name).write_bytes(b"half")
    assert main(["fit", "--resume", str(run_dir)]) == 2
    assert "has no readable checkpoint" in capsys.readouterr().err


@copied
@pytest.mark.parametrize("restart", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restarted_job_goes_on(trained, tmp_path, capsys, monkeypatch, restart, tiny):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setenv(restart, "1")
    assert main(["fit", *tiny, "--run_dir", str(run_dir)]) == 0
    assert "resuming from" in capsys.readouterr().out
    assert main(["fit", *tiny, "--run_dir", str(tmp_path / "new")]) == 0  # stopped before it wrote anything
    kept = ["--wandb_checkpoints", "--trust_config", "mine"]
    assert layer(["fit", *tiny, "--run_dir", str(run_dir), *kept])[-len(kept) :] == kept


def test_a_second_fit_of_a_trainer_saves_as_often_as_the_first(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(LastCheckpoint, "save", lambda callback: saves.append(1))
    data = CIFAR10DataModule("digits", batch_size=500)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=[LastCheckpoint()], default_root_dir=str(tmp_path),
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    (callback,) = (one for one in trainer.callbacks if isinstance(one, LastCheckpoint))
    for epochs in (1, 2):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(ImageClassifier(widths=[4, 4, 8, 8, 8]), data)
        callback.stop_signal = signal.SIGINT  # the first was stopped, and was itself one that went on
        callback.stored = {"random": {}, "metrics": {"train_accuracy": {"correct": torch.tensor(9)}}}
    assert len(saves) == 2


@copied
def test_it_goes_on_without_the_checkpoint_that_it_began_with(trained, tmp_path, tiny):
    first = tmp_path / "first.ckpt"
    shutil.copy(trained / "checkpoints/last.ckpt", first)
    run_dir = tmp_path / "run"
    assert main(["fit", *tiny, "--ckpt_path", str(first), "--trainer.max_epochs", "2", "--run_dir", str(run_dir)]) == 0
    first.unlink()
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "3"]) == 0
    assert load_checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == 3 * 20


def test_it_trains_in_a_thread_too(tiny, tmp_path):
    """Where no signal can be waited for."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(main(["fit", *tiny, "--run_dir", str(tmp_path / "run")])))
    thread.start()
    thread.join()
    assert ended == [0]


def test_every_flipped_bit_and_cut_of_a_checkpoint_is_noticed(tmp_path):
    file = tmp_path / "x.ckpt"
    save_checkpoint({"weights": torch.randn(500)}, file)
    whole = file.read_bytes()
    assert torch.equal(load_checkpoint(file)["weights"], torch.load(file, weights_only=True)["weights"])
    places = [*range(0, len(whole), 97), *range(len(whole) - 90, len(whole))]  # its end: where the digest lies
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(file)
        file.write_bytes(whole[:place])
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(file)
