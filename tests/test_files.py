"""Files are replaced atomically."""

import errno
import os
import stat
from pathlib import Path

import pytest

from lightning_cifar.files import open_atomically, write_whole


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    file = tmp_path / "out.csv"
    with open_atomically(file) as opened:
        opened.write("old")
        assert not file.exists()

    def write_half() -> None:
        with open_atomically(file) as opened:
            opened.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (file.read_text(), [*tmp_path.glob(".*partial")]) == ("old", [])


def test_an_error_in_writing_names_the_file(tmp_path):
    file = tmp_path / "absent/out.bin"
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(file, b"x")
    assert caught.value.filename == str(file)


def test_a_file_is_written_where_directories_cannot_be_synced(tmp_path, monkeypatch):
    sync = os.fsync

    def fail_for_directories(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_directories)
    write_whole(tmp_path / "x", b"y")
    assert (tmp_path / "x").read_bytes() == b"y"


def test_links_in_place_of_temporary_files_are_not_followed():
    Path("mine").write_text("mine")
    for name in (".out.partial", ".out.0.partial"):
        Path(name).symlink_to("mine")
    write_whole(Path("out"), b"new")
    assert (Path("mine").read_text(), Path("out").read_text()) == ("mine", "new")
