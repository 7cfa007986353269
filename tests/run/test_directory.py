"""Which directories a command may write to, and that one process at a time trains in a run directory."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_cifar import InputError, Throughput, main
from lightning_cifar.run import directory as run_directory
from lightning_cifar.run import trainer
from lightning_cifar.run.directory import claim_directory, lock, make_timed_directory


def is_mine(directory):
    raise AssertionError("it holds no files to ask for")


def test_new_and_empty_directories_can_be_claimed(tmp_path):
    directory = tmp_path / "a/b"
    assert claim_directory(directory, "--output", is_mine) == directory
    (directory / ".lock").touch()
    assert claim_directory(directory, "--output", is_mine) == directory


def test_a_directory_with_files_needs_its_owner(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match=r"^--output .* is not empty: name a new or empty directory$"):
        claim_directory(tmp_path, "--output", lambda directory: (directory / "report.html").exists())
    assert claim_directory(tmp_path, "--output", lambda directory: (directory / "mine.txt").exists()) == tmp_path


def test_a_directory_that_cannot_be_made_names_the_option(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^--explain .*file/x: Not a directory; name another directory$"):
        claim_directory(tmp_path / "file/x", "--explain", is_mine)


def test_a_full_disk_is_not_bad_input(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        claim_directory(tmp_path / "new", "--output", is_mine)
    assert not isinstance(caught.value, InputError)


def test_directories_of_the_same_second_are_numbered(tmp_path, monkeypatch):
    monkeypatch.setattr(
        run_directory.datetime, "datetime", SimpleNamespace(now=lambda: SimpleNamespace(strftime=lambda _: "now"))
    )
    assert [make_timed_directory(tmp_path / "runs").name for _ in range(3)] == ["now", "now-2", "now-3"]


HOLDER = """
import fcntl, os, sys
from pathlib import Path
from lightning_cifar.run.directory import lock
def fail(*_):
    raise OSError(int(sys.argv[2]), "no locks here")
if sys.argv[2] != "0":
    fcntl.flock = fail
held = lock(Path(sys.argv[1]))
print(bool(held and held.is_locked), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("code", [0, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_run_directory_has_one_process_on_any_file_system_until_that_is_killed(
    tmp_path, monkeypatch, start_python, code
):
    def fail(*_):
        raise OSError(code, "no locks here")

    if code:
        monkeypatch.setattr(fcntl, "flock", fail)
    child = start_python("-c", HOLDER, tmp_path, code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == "True\n"
    with pytest.raises(InputError, match="is in use: another process trains in it"):
        lock(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    held = lock(tmp_path)
    assert held is not None
    held.release()


def replace_by_file() -> None:
    shutil.rmtree("run")
    Path("run").touch()


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [lambda: shutil.rmtree("run"), lambda: Path("run").rename("moved"), replace_by_file],
    ids=["rm", "mv", "file"],
)
def test_run_directory_that_vanishes_is_one_line(tiny, monkeypatch, capsys, harm):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Throughput, "on_train_epoch_end", lambda *_: harm())
    assert main(["fit", *tiny, "--run_dir", "run", "--trainer.limit_val_batches", "0"]) == 2
    out, err = capsys.readouterr()
    assert err == "error: run was moved or deleted while it was in use: move it back, or start anew\n"
    assert "test it" not in out
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_training_that_outlives_its_directory_says_so(tiny, monkeypatch, capsys):
    monkeypatch.setattr(Throughput, "on_train_epoch_end", lambda *_: Path("run").rename("moved"))
    assert main(["fit", *tiny, "--run_dir", "run"]) == 0
    assert "run was moved or deleted during training: its config.yaml is missing" in capsys.readouterr().out
    assert Path("run/checkpoints/last.ckpt").exists()


def test_a_process_that_loses_the_race_for_a_directory_changes_nothing_in_it(tiny, monkeypatch):
    """Another one has locked it, and written into it, since it was found empty."""

    def lose(directory):
        (directory / ".lock").touch()
        (directory / "config.yaml").touch()
        raise InputError(f"{directory} is in use: another process trains in it")

    monkeypatch.setattr(trainer, "lock", lose)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 2
    assert sorted(file.name for file in Path("run").iterdir()) == [".lock", "config.yaml"]


def test_a_link_to_a_disk_that_is_not_there_is_named(tiny, tmp_path, capsys):
    Path("runs").symlink_to(tmp_path / "unmounted/runs")
    assert main(["fit", *tiny]) == 2
    assert capsys.readouterr().err == "error: --run_dir runs: File exists; name another directory\n"


def test_a_name_that_is_too_long_leaves_no_parents(tiny, capsys):
    assert main(["fit", *tiny, "--run_dir", f"new/{'x' * 300}"]) == 2
    assert "File name too long" in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_lock_of_another_user_is_no_reason_to_train_beside_them(tiny, monkeypatch, capsys):
    """In a directory that both may write to."""
    shutil.rmtree("run", ignore_errors=True)
    Path("run").mkdir()
    Path("run/.lock").touch()
    opened = os.open

    def forbid(path, *args, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", forbid)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 2
    why = "it is another user's; if no process uses the directory, delete it"
    assert capsys.readouterr().err == f"error: run/.lock cannot be opened: {why}\n"
    assert [file.name for file in Path("run").iterdir()] == [".lock"]


@pytest.mark.parametrize("mode", [0o700, 0o770, 0o755])
def test_whoever_may_write_to_a_directory_may_lock_it(tmp_path, mode):
    tmp_path.chmod(mode)
    held = lock(tmp_path)
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600 | (mode & 0o066)
    held.release()


@pytest.mark.slow
def test_partial_files_of_killed_writers_are_removed(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    left = tmp_path / "run" / "checkpoints" / ".last.ckpt.0123.partial"
    left.write_bytes(b"half")
    assert main(["fit", "--resume", str(tmp_path / "run")]) == 0
    assert not left.exists()
