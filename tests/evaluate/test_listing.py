"""Which files patterns of `predict --images` match, and links that loop."""

import glob
import io
import os
import sys
from pathlib import Path

import pytest

from lightning_cifar.errors import InputError
from lightning_cifar.evaluate.listing import find_images

FILES = ("a.png", "one/a.png", "one/b.txt", "one/two/c.png", "three/a.png", "one/[x]/d.png")
FILES += (".hidden/a.png", "one/.b.png", "three/.hidden/e.png", ".hidden/.deep/f.png", ".hidden/deep/g.png")


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in FILES:
        file = tmp_path / "files" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "pattern",
    ["files/**", "files/**/*.png", "**/*.png", "files/**/two/*", "f*/**/[ab].*", "files/**/**/a.png", "files/*/*.png",
     "{tmp}/files/**/a*", "none/**", "files/one/**/", "**/.hidden/*", "files/**/.hidden/**", "files/**/.*",
     "files/.hidden/**/*.png", "**/.*/**/[ef].png", "files/**/.hidden/.*/*"],
)  # fmt: skip
def test_patterns_match_as_those_of_glob_do(pattern, files):
    pattern = pattern.format(tmp=os.getcwd())
    expected = {path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)}
    assert [*find_images([pattern])] == sorted(expected)


def test_a_folder_that_a_pattern_matches_is_read(files):
    """As if the shell had put it there."""
    assert [*find_images(["files/o*"])] == [*find_images(["files/one"])] != []


def test_standard_input_that_is_no_list_is_one_line(monkeypatch):
    for text in ("a.png\0b.png\0", "\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        with pytest.raises(InputError, match="standard input is no list of paths, one a line"):
            [*find_images(["-"])]


def test_links_that_loop_are_not_followed(files):
    """Two of them in one folder: glob follows each in turn, 2**40 times."""
    for name in ("up", "one/up", "one/top", "one/self"):
        Path("files", name).symlink_to(Path("files").resolve())
    assert len([*find_images(["files/**/*.png"])]) == 5
    assert [*find_images(["files/one/**/c.png"])] == ["files/one/two/c.png"]
