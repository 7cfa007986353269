"""A command that is refused changes nothing: no file and no directory is made, changed or removed."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from lightning_cifar import ImageClassifier, main
from lightning_cifar.errors import InputError
from lightning_cifar.run.directory import lock, undo_if_refused
from tests.children import Trap

FIT = ["fit", "--recipe", "demo", "--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", "2"]
LONG = [*FIT[1:], "--trainer.val_check_interval", "1000"]
REFUSED = {
    "more images in a batch than there are": [*FIT, "--data.drop_last", "true", "--data.batch_size", "5000"],
    "an unknown option": [*FIT, "--model.lr_rate", "1"],
    "a value out of range": [*FIT, "--model.dropout", "2"],
    "a device that is not there": [*FIT, "--trainer.accelerator", "cuda"],
    "a validation interval that is too long": [*FIT, "--trainer.val_check_interval", "1000"],
    "a limit out of range": [*FIT, "--trainer.limit_train_batches", "1.5"],
    "a package that is not there": [*FIT, "--trainer.precision", "transformer-engine"],
    "W&B checkpoints without W&B": [*FIT, "--wandb_checkpoints"],
    "a schedule without an end": [*FIT, "--model.schedule", "triangular", "--trainer.max_epochs", "-1"],
    "a seed on a device that is not there": ["repeat", *FIT[1:], "--trainer.accelerator", "cuda"],
    "a seed of a precision that is chosen": ["repeat", *LONG, "--trainer.precision", "auto"],
    "no test image": ["test", "--ckpt_path", "{}/checkpoints/last.ckpt", "--trainer.limit_test_batches", "0"],
    "corruptions of a validation": ["validate", "--ckpt_path", "{}/checkpoints/last.ckpt", "--corruptions"],
    "another network": ["predict", "--ckpt_path", "{}/checkpoints/last.ckpt", "--model.hidden", "99"],
}
# Found in the loader, in building the Trainer, after the run has begun.
QUICK = ("more images", "a device", "a seed of", "no test")
CASES = [pytest.param(name, marks=[] if name.startswith(QUICK) else pytest.mark.slow) for name in REFUSED]
RESUMED = {name: args[len(FIT) :] for name, args in REFUSED.items() if args[0] == "fit" and "batch" not in name}


def list_files(directory: Path) -> dict[str, tuple[int, bytes] | None]:
    skipped = ("home", "cache")
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes()) if file.is_file() else None
        for file in directory.rglob("*")
        if file.relative_to(directory).parts[0] not in skipped
    }


@pytest.mark.parametrize("kind", ["nested", "empty", "default"])
@pytest.mark.parametrize("name", CASES)
def test_refused_command_leaves_no_file(trained, tmp_path, capsys, name, kind):
    if kind == "empty":
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty/.hidden").touch()
    run_dir = {"nested": ["a/b/run"], "empty": ["empty"]}.get(kind, [])
    before = list_files(tmp_path)
    args = [word.format(trained) for word in REFUSED[name]] + [word for path in run_dir for word in ("--run_dir", path)]
    assert main(args) == 2, capsys.readouterr().err
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list_files(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if "interval" in name else pytest.mark.slow) for name in RESUMED]
)
def test_refused_resume_changes_no_file(trained, tmp_path, capsys, name):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    before = list_files(tmp_path)
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "3", *RESUMED[name]]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list_files(tmp_path) == before


def test_the_lock_is_held_until_a_refused_command_is_undone(tmp_path, monkeypatch):
    def undo_and_try(directory, *made, **options):
        undo = undo_if_refused(directory, *made, **options)

        def end(*error):
            with pytest.raises(InputError, match="another process trains in it"):
                lock(directory)
            undo(*error)

        return end

    monkeypatch.setattr("lightning_cifar.run.trainer.undo_if_refused", undo_and_try)
    assert main([*REFUSED["a device that is not there"], "--run_dir", "run"]) == 2
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "option", ["--recipe", "--config", "--config=", "-c", "--ckpt_path", "--init_from", "--run_dir"]
)
def test_a_resumed_run_keeps_its_settings(option, trained, capsys):
    Path("mine.yaml").write_text("trainer: {max_epochs: 2}")
    typed = [f"{option}mine.yaml"] if option.endswith("=") else [option, "mine.yaml"]
    assert main(["fit", "--resume", str(trained), *typed]) == 2
    name = "--config" if option == "-c" else option.removesuffix("=")
    assert f"{name} does not go with --resume" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["checkpoints", "checkpoints/last.ckpt", "config.yaml"])
def test_a_path_within_a_run_gets_a_hint(trained, capsys, path):
    assert main(["fit", "--resume", str(trained / path)]) == 2
    assert capsys.readouterr().err.endswith(f"did you mean {trained}?\n")


@pytest.mark.parametrize("name", ["an unknown option", "no test image"])
def test_refused_command_leaves_a_directory_with_a_run(trained, tmp_path, name):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    before = list_files(tmp_path)
    assert main([*(word.format(trained) for word in REFUSED[name]), "--run_dir", str(run_dir)]) == 2
    assert list_files(tmp_path) == before


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_stopped_evaluation_leaves_no_file(trained, tmp_path, capsys, monkeypatch, command, number):
    """And says that the same command starts anew, by whichever signal it was stopped."""
    step = {"test": "test_step", "validate": "validation_step", "predict": "predict_step"}[command]
    monkeypatch.setattr(ImageClassifier, step, lambda *_: signal.raise_signal(number))
    before = list_files(tmp_path)
    for run_dir in ([], ["--run_dir", "a/b"]):
        assert main([command, "--ckpt_path", str(trained), *run_dir]) == 128 + number
        assert capsys.readouterr().err.splitlines()[-1] == "interrupted: run the command again"
        assert list_files(tmp_path) == before


@pytest.mark.usefixtures("terminal_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_stopped_before_it_began_leaves_no_file(tmp_path, capsys, monkeypatch, number):
    """There is nothing to resume, and the same command can be typed again."""
    monkeypatch.setattr(ImageClassifier, "on_fit_start", lambda _: signal.raise_signal(number))
    before = list_files(tmp_path)
    assert main([*FIT, "--run_dir", "run"]) == 128 + number
    assert "resume it" not in capsys.readouterr().out
    assert list_files(tmp_path) == before


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
def test_test_stopped_between_its_results_is_repeated_in_its_directory(trained, tmp_path, monkeypatch):
    """Its run does not list it before."""
    run_dir = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("tests.json"))
    args = ["test", "--ckpt_path", "run", "--run_dir", "tested"]
    with monkeypatch.context() as patched:
        patched.setattr("lightning_cifar.commands.test.write_logits", lambda *_: signal.raise_signal(signal.SIGINT))
        assert main(args) == 130
    assert not Path("tested").exists()
    assert not (run_dir / "tests.json").exists()
    assert main(args) == 0
    assert json.loads((run_dir / "tests.json").read_text()) == ["../tested"]


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("test", "commands.test:write_logits"),  # between its results
        pytest.param("validate", "train.classifier:ImageClassifier.validation_step", marks=pytest.mark.slow),
        pytest.param("predict", "train.classifier:ImageClassifier.predict_step", marks=pytest.mark.slow),
    ],
)
def test_killed_evaluation_is_repeated_in_its_directory(trained, start, capsys, command, function):
    args = [command, "--ckpt_path", str(trained), "--run_dir", "evaluated"]
    trap = Trap(f"lightning_cifar.{function}", signal=signal.SIGKILL)
    assert start(*args, prepare=trap.set).wait() == 137
    others = {"test": "validate"}.get(command, "test")
    assert main([others, *args[1:]]) == 2
    assert "evaluated is not empty" in capsys.readouterr().err
    assert [main(args), main(args)] == [0, 2]  # once it is complete, it is kept


@pytest.mark.slow
def test_a_mark_whose_results_were_removed_gives_no_right_to_those_of_another_command(trained, capsys):
    Path("evaluated").mkdir()
    Path("evaluated/.unfinished-test").touch()
    args = ["--ckpt_path", str(trained), "--run_dir", "evaluated"]
    assert [main([command, *args]) for command in ("validate", "test")] == [0, 2]
    assert "evaluated is not empty" in capsys.readouterr().err


def test_results_of_a_killed_evaluation_that_is_stopped_are_not_emptied(tmp_path):
    (result := tmp_path / "test.json").write_text("old")
    undo = undo_if_refused(tmp_path, stopped=True)
    result.write_text("new")
    os.utime(result, ns=(0, 0))  # a clock may be coarse
    undo(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not result.exists()


def test_an_evaluation_whose_output_has_no_reader_leaves_no_file(tmp_path):
    """As ``test | head -1``, which ends before the results are there."""
    (run_dir := tmp_path / "run").mkdir()
    undo = undo_if_refused(run_dir, made=[run_dir], stopped=True)
    (run_dir / "metrics.csv").touch()
    undo(BrokenPipeError, BrokenPipeError(), None)
    assert not run_dir.exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["test", "predict"])
def test_complete_results_stay_if_their_last_line_is_not_printed(trained, capsys, monkeypatch, command):
    def print_or_fail(*words, **_):
        if str(words[0]).startswith(("table:", "predictions:")):
            raise KeyboardInterrupt

    module = "lightning_cifar.commands." + {"test": "test", "predict": "predict.test_set"}[command]
    monkeypatch.setattr(f"{module}.print", print_or_fail, raising=False)
    assert main([command, "--ckpt_path", str(trained), "--run_dir", "tested"]) == 130
    assert Path("tested", {"test": "test.json", "predict": "predictions.csv"}[command]).exists()


@pytest.mark.slow
def test_corrected_command_can_use_the_same_directory():
    assert main([*REFUSED["more images in a batch than there are"], "--run_dir", "run"]) == 2
    assert (
        main([*FIT, "--trainer.limit_train_batches", "1", "--trainer.log_every_n_steps", "1", "--run_dir", "run"]) == 0
    )


@pytest.mark.slow
def test_too_little_memory_for_the_first_step_leaves_no_file(tmp_path, monkeypatch):
    """So that the command with a smaller batch can use the same directory."""

    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999999 bytes")

    monkeypatch.setattr(ImageClassifier, "training_step", fail)
    before = list_files(tmp_path)
    assert main([*FIT, "--run_dir", "run"]) == 1
    assert list_files(tmp_path) == before


@pytest.mark.slow
def test_other_files_in_a_run_directory_are_not_read(trained, tmp_path, monkeypatch):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    (run_dir / "data.tar").touch()  # as large as it may be
    read, names = Path.read_bytes, list[str]()
    monkeypatch.setattr(Path, "read_bytes", lambda file: names.append(file.name) or read(file))
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert "config.yaml" in names
    assert "data.tar" not in names
