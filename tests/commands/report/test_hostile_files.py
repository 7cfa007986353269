"""`report` on files that block, that are huge or nested without end, and on names that cannot be drawn."""

import errno
import json
import os
import shutil
import time

import pytest

from lightning_cifar import main

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def report(capsys, directory):
    """Run the command; return its lines, after a status of 0, nothing on standard error and at most a minute."""
    capsys.readouterr()
    started = time.monotonic()
    assert main(["report", str(directory)]) == 0
    assert time.monotonic() - started < 60
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


@pytest.fixture
def run(runs, tmp_path):
    """A run with its test in the same directory, as `repeat` leaves its seeds."""
    directory = shutil.copytree(runs / "demo/run", tmp_path / "run", ignore=shutil.ignore_patterns("tests.json"))
    shutil.copy(runs / "test/one/mistakes.png", directory)
    test = json.loads((runs / "test/one/test.json").read_text())
    (directory / "test.json").write_text(json.dumps(test | {"checkpoint": "checkpoints/last.ckpt"}))
    return directory


@pytest.mark.slow
def test_files_that_are_not_regular_are_not_opened(run, capsys):
    files = [run / name for name in ("config.yaml", "run.json", "metrics.csv", "mistakes.png")]
    for file in files:
        file.unlink()
        os.mkfifo(file)
    for file in (run / "tests.json", run / "repeat.json", run.parent / "test/x/test.json", run / "report/loss.png"):
        file.parent.mkdir(exist_ok=True, parents=True)
        os.mkfifo(file)
    (run / "linked").mkdir()
    (run / "linked/test.json").symlink_to("/dev/zero")
    *notes, _ = report(capsys, run)
    assert notes == [f"note: {file} is damaged: ValueError it is not a regular file" for file in files]
    for file in (*files, run / "test.json"):
        file.unlink()
    os.mkfifo(run / "test.json")
    shutil.rmtree(run.parent / "test")
    assert f"note: {run / 'test.json'} is damaged: ValueError it is not a regular file" in report(capsys, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.yaml", f"{LAUGHS}model: {{a: *i}}\ndata: {{}}\ntrainer: {{}}\n", "it has more than 20,000 values"),
        ("config.yaml", "model: &a {a: *a}\ndata: {}\ntrainer: {}\n", "it has more than 20,000 values"),
        pytest.param("config.yaml", "[" * 100_000, "RecursionError", marks=pytest.mark.slow),
        ("config.yaml", "#" * (1 << 20) + "\n", "1,048,577 bytes are more than 1,048,576"),
        ("config.yaml", f"seed_everything: {'9' * 100_000}\n", "ValueError Exceeds the limit"),
        ("run.json", "[" * 100_000, "RecursionError"),
        ("run.json", f'{{"command": {"9" * 100_000}}}', "ValueError Exceeds the limit"),
    ],
)
def test_endless_texts_are_listed(run, capsys, name, content, words):
    (run / name).write_text(content)
    first, *_ = report(capsys, run)
    assert first.startswith(f"note: {run / name} is damaged: ")
    assert words in first


@pytest.mark.slow
def test_long_names_are_shortened(run, capsys):
    long = "x" * 1_000_000
    test = json.loads((run / "test.json").read_text())
    test["per_class"] = {long + name: row for name, row in test["per_class"].items()}
    test["corruptions"] = {long: [0.5] * 5}
    (run / "test.json").write_text(json.dumps(test))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("recipe: demo", f"recipe: {long[:900_000]}"))
    assert len(report(capsys, run)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("field", ["mistakes", "reliability", "corruptions"])
def test_a_test_with_too_many_values_is_listed(run, capsys, field):
    test = json.loads((run / "test.json").read_text())
    (run / "test.json").write_text(json.dumps(test | {field: {str(number): [] for number in range(30_000)}}))
    assert report(capsys, run)[0] == f"note: {run / 'test.json'} is damaged: ValueError it has more than 20,000 values"


def test_a_test_that_is_nested_deep_is_none(run, capsys):
    (run / "test.json").write_text("[" * 100_000)
    assert f"note: {run / 'test.json'} is damaged: RecursionError" in report(capsys, run)[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "export", "predict", "predict --explain", "test"])
def test_a_full_disk_is_named_with_what_helps(run, capsys, monkeypatch, drawn_folder, command):
    args = {
        "report": ["report", run],
        "export": ["export", "--ckpt_path", run, "--output", "x.safetensors"],
        "predict": ["predict", "--images", drawn_folder / "cat/0000.jpg", "--output", "x.csv"],
        "predict --explain": ["predict", "--images", drawn_folder / "cat/0000.jpg", "--explain", "x"],
        "test": ["test", "--ckpt_path", run],
    }
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", lambda _: fail(full))
    capsys.readouterr()
    assert main([str(one) for one in args[command]]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.endswith(": No space left on device: free some space; then run the command again")


def fail(error):
    raise error
