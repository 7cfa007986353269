"""``~`` in paths is the home directory, wherever a path is taken."""

import pwd
import shutil
from pathlib import Path

import pytest

from lightning_cifar import main


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.mark.slow
def test_home_is_expanded_wherever_a_path_is_taken(image_folder, tiny, home, monkeypatch):
    shutil.move(image_folder, home / "images")
    data = ["--data.dataset", "folder", "--trainer.log_every_n_steps", "1", "--data.batch_size", "9"]
    assert main(["fit", *tiny, *data, "--data.root=~/images", "--run_dir=~/first"]) == 0
    assert (home / "first" / "checkpoints" / "last.ckpt").is_file()
    Path("config.yaml").write_text("run_dir: ~/second\ndata: {root: ~/images}")
    assert main(["fit", *tiny, *data, "--config", "config.yaml"]) == 0
    assert (home / "second" / "config.yaml").is_file()
    monkeypatch.setenv("LIGHTNING_CIFAR_DATA", "~/images")
    assert main(["validate", "--ckpt_path=~/first/checkpoints/last.ckpt"]) == 0
    assert not Path("~").exists()


def test_without_a_home_no_directory_is_named_by_a_tilde(tiny, capsys, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["uid not found"])
    for words in (["--run_dir=~/run"], ["--run_dir", "~/run"]):
        assert main(["fit", *tiny, *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "set HOME, or write the whole path" in line
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["predict", "--ckpt_path", "", "--images", "x.png"], "the word after --ckpt_path"),
        (["test", "--ckpt_path="], "--ckpt_path="),
        (["report", ""], "the word after report"),
        ([""], "the command"),
    ],
)
def test_an_empty_value_is_not_the_current_directory(words, named, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: {named} has an empty value: is a variable of the shell unset?\n"


def test_a_value_may_end_with_an_equals_sign(capsys):
    assert main(["predict", "--images=x=", "--ckpt_path=x"]) == 2
    assert "empty value" not in capsys.readouterr().err


def test_home_is_expanded_for_archives(tiny, home, capsys):
    Path("config.yaml").write_text("data: {archive: ~/absent.tar.gz, dataset: cifar10}")
    assert main(["fit", *tiny, "--config=~/../config.yaml"]) == 2
    assert f"{home}/absent.tar.gz: no such file" in capsys.readouterr().err
