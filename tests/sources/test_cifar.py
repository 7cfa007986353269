"""Tests of reading, downloading and verifying CIFAR.

The archives have the published format, but random pixels, and are served from localhost.
"""

import gc
import hashlib
import io
import multiprocessing
import os
import pickle
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import CIFAR10

from lightning_cifar.sources import cifar, download
from lightning_cifar.sources.cifar import load_cifar


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))


class Mirror(ThreadingHTTPServer):
    """Server of one folder that records requested ranges. It can break off or stall after some bytes of a body."""

    last_byte: int | None = None
    silent: threading.Event | None = None  # stall until it is set
    ranges: bool = False  # whether range requests are supported

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.requested: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.requested.append(requested)
        if not (requested and self.server.ranges):
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        first = int(requested.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.copyfile(io.BytesIO(content[first:]), self.wfile)

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(self.server.last_byte))
        if self.server.silent is not None:
            self.server.silent.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """HTTP server of the folder ``www``."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "www").mkdir()
    with Mirror(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "www")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def list_names(folder: Path) -> list[str]:
    """Return the entries of ``folder``, if it exists, except locks and partial downloads."""
    return sorted(entry.name for entry in folder.glob("*") if not entry.name.endswith((".lock", ".partial")))


Offer = Callable[[bytes], tuple[dict[str, object], object]]


@pytest.fixture(params=["url", "archive", "root"])
def offer(request: pytest.FixtureRequest, published: Any, mirror: Mirror, root: Path, tmp_path: Path) -> Offer:
    """Return a function that offers an archive in one of three ways.

    It returns the arguments of `load_cifar`, and the source that errors must name.
    """

    def make_offer(content: bytes) -> tuple[dict[str, object], object]:
        if request.param == "url":
            (tmp_path / "www" / "mirrored.tar.gz").write_bytes(content)
            return {"url": f"{mirror.url}/mirrored.tar.gz"}, f"{mirror.url}/mirrored.tar.gz"
        if request.param == "archive":
            (tmp_path / "mine.tar.gz").write_bytes(content)
            return {"archive": tmp_path / "mine.tar.gz"}, tmp_path / "mine.tar.gz"
        root.mkdir()
        (root / published.source.filename).write_bytes(content)
        return {}, root / published.source.filename

    return make_offer


@pytest.fixture
def installed(published: Any, root: Path) -> Path:
    """Extracted folder, as a user would place it."""
    with tarfile.open(published.archive) as tar:
        tar.extractall(root, filter="data")
    return root / published.source.base_folder


def test_cifar_equals_the_archive(published, offer, root):
    arguments, _ = offer(published.archive.read_bytes())
    assert published.equals(load_cifar(published.name, root, **arguments))
    assert set(list_names(root)) - {published.source.filename} == {published.source.base_folder}


def test_cifar_is_downloaded_from_the_authors_host_by_default(published, mirror, root, tmp_path, monkeypatch):
    shutil.copy(published.archive, tmp_path / "www" / "original.tar.gz")
    monkeypatch.setattr(published.source, "url", f"{mirror.url}/original.tar.gz")
    assert published.equals(load_cifar(published.name, root))
    assert list_names(root) == [published.source.base_folder]


def test_cifar_is_installed_once(published, root, capsys):
    load_cifar(published.name, root, archive=published.archive)
    assert "is not used" not in capsys.readouterr().out
    published.archive.unlink()
    assert published.equals(load_cifar(published.name, root, archive=published.archive))
    assert f"{published.source.base_folder} is complete: archive is not used\n" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_an_extracted_folder_is_used(published, root):
    assert published.equals(load_cifar(published.name, root))
    assert list_names(root) == [published.source.base_folder]


def test_images_are_channels_last(published, root):
    dataset = load_cifar(published.name, root, archive=published.archive)
    assert dataset.train.images.is_contiguous(memory_format=torch.channels_last)
    assert dataset.test.images.is_contiguous(memory_format=torch.channels_last)


CONTEXT = multiprocessing.get_context("forkserver")


def install(root: Path, url: str, archive: tuple[int, str], listed: dict[str, Any]) -> None:
    """Install in a child process, to which the generated archive must be passed."""
    cifar.PUBLISHED[CIFAR10.filename] = archive
    for name, value in listed.items():
        setattr(CIFAR10, name, value)
    cifar.install_cifar(CIFAR10, root, url, None)


def start_child(root: Path, url: str) -> multiprocessing.Process:
    listed = {name: getattr(CIFAR10, name) for name in ("train_list", "test_list", "meta")}
    process = CONTEXT.Process(target=install, args=(root, url, cifar.PUBLISHED[CIFAR10.filename], listed))
    process.start()
    return process


@pytest.mark.fault
@pytest.mark.parametrize("published", [("cifar10", CIFAR10)], indirect=True)
@pytest.mark.slow
def test_eight_processes_download_once_even_if_the_first_is_killed(published, mirror, root, tmp_path, eventually):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    url = f"{mirror.url}/mirrored.tar.gz"
    mirror.last_byte, mirror.silent = 1000, threading.Event()
    first = start_child(root, url)
    eventually(lambda: len(mirror.requested) == 1)
    others = [start_child(root, url) for _ in range(7)]
    first.kill()
    first.join(10)
    mirror.last_byte = None
    mirror.silent.set()
    for other in others:
        other.join(300)
    assert [other.exitcode for other in others] == [0] * 7
    assert len(mirror.requested) == 2
    assert published.equals(load_cifar(published.name, root))


@pytest.mark.parametrize("ranges", [True, False], ids=["from the last byte", "from the start"])
def test_a_download_resumes_or_restarts(published, mirror, root, tmp_path, bad_input, ranges):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    mirror.last_byte, mirror.ranges = 1000, ranges
    url = f"{mirror.url}/mirrored.tar.gz"
    with bad_input(url, "broke off after", "url", "archive to"):
        load_cifar(published.name, root, url)
    assert list_names(root) == []
    assert len(mirror.requested) == len(download.PAUSES)
    mirror.last_byte = None
    assert published.equals(load_cifar(published.name, root, url))
    assert mirror.requested[-1] == f"bytes={3000 if ranges else 1000}-"
    assert list_names(root) == [published.source.base_folder]


def test_a_bad_partial_download_is_discarded(published, mirror, root, tmp_path):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    root.mkdir()
    (root / f".{published.source.filename}.partial").write_bytes(b"x" * 1000)
    mirror.ranges = True
    assert published.equals(load_cifar(published.name, root, f"{mirror.url}/mirrored.tar.gz"))


def test_the_next_mirror_is_tried_after_a_failure(published, mirror, refusing_url, root, tmp_path):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    (tmp_path / "www" / "page.tar.gz").write_bytes(b"<html>")
    urls = [refusing_url, f"{mirror.url}/absent", f"{mirror.url}/page.tar.gz", f"{mirror.url}/mirrored.tar.gz"]
    assert published.equals(load_cifar(published.name, root, ",".join(urls)))


def test_more_than_the_published_size_is_not_read(published, mirror, root, tmp_path, bad_input):
    (tmp_path / "www" / "endless.tar.gz").write_bytes(published.archive.read_bytes() + bytes(1 << 20))
    with bad_input("not the", "of the published file"):
        load_cifar(published.name, root, f"{mirror.url}/endless.tar.gz")


@pytest.mark.usefixtures("installed")
def test_a_complete_directory_need_not_be_writable(published, root):
    before = [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))]
    for path in (root / published.source.base_folder, root):
        path.chmod(0o555)
    try:
        assert published.equals(load_cifar(published.name, root))
    finally:
        root.chmod(0o755)
    assert [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))] == before


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("which", ["train_list", "test_list", "meta"])
def test_a_batch_that_would_run_code_is_refused(published, installed, root, bad_input, which, monkeypatch):
    listed = getattr(published.source, which)
    name = listed["filename"] if which == "meta" else listed[0][0]
    content = pickle.dumps({"data": Harmful()}, 2)
    (installed / name).write_bytes(content)
    md5 = hashlib.md5(content).hexdigest()  # as if it had been published
    changed = listed | {"md5": md5} if which == "meta" else [[name, md5], *listed[1:]]
    monkeypatch.setattr(published.source, which, changed)
    with bad_input(installed, "mkdir, which is not an array"):
        load_cifar(published.name, root)
    assert not Path("harmed").exists()


def test_an_archive_writes_nothing_outside_the_root(published, root, tmp_path, monkeypatch):
    with tarfile.open(published.archive) as tar:
        inside = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    crafted = tmp_path / "crafted.tar.gz"
    with tarfile.open(crafted, "w:gz") as tar:
        for name, content in {"../outside": b"x", "/absolute": b"x", **inside}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = crafted.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(cifar.PUBLISHED, published.source.filename, (len(content), digest))
    assert published.equals(load_cifar(published.name, root, archive=crafted))
    assert list_names(root) == [published.source.base_folder]
    assert not (tmp_path / "outside").exists()
    assert not Path("/absolute").exists()


# -------------------------------------------------------------------------------------------------- CIFAR, bad input


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def alter(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def make_error_page(content: bytes) -> bytes:
    return b"<html>Please accept our cookies</html>"


@pytest.mark.parametrize("damage", [truncate, alter, make_error_page])
def test_damaged_archive_is_refused(published, offer, root, bad_input, damage):
    arguments, named = offer(damage(published.archive.read_bytes()))
    before = list_names(root) if root.exists() else []
    reason = "of the published file" if "url" in arguments and damage is not alter else "truncated or altered"
    with bad_input(named, reason, published.source.filename, "url", "archive to"):
        load_cifar(published.name, root, **arguments)
    assert list_names(root) == before


@pytest.fixture
def refusing_url() -> Iterator[str]:
    """URL of a port on which no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/x.tar.gz"


def check_download_fails(published, root, bad_input, url, *reasons):
    with bad_input(url, *reasons, "Set url", "archive to", "root to", published.source.base_folder):
        load_cifar(published.name, root, url)
    assert list_names(root) == []


@pytest.mark.slow
def test_missing_url_is_named(published, mirror, root, bad_input):
    check_download_fails(published, root, bad_input, f"{mirror.url}/absent.tar.gz", "not found")
    gc.collect()  # a connection left open would warn here


def test_refused_connection_is_named(published, refusing_url, root, bad_input):
    check_download_fails(published, root, bad_input, refusing_url, "refused")


@pytest.mark.parametrize(
    "url", ["cifar-10-python.tar.gz", "htp://x/y.tar.gz", "http://x y/z", "http://[x/y", "file:///absent"]
)
def test_bad_url_is_named(published, root, bad_input, url):
    check_download_fails(published, root, bad_input, url)


@pytest.mark.slow
def test_a_silent_server_times_out(published, mirror, root, tmp_path, bad_input, monkeypatch):
    shutil.copy(published.archive, tmp_path / "www" / "mirrored.tar.gz")
    monkeypatch.setattr(download, "ONLY_TIMEOUT", 0.1)
    mirror.last_byte, mirror.silent = 1000, threading.Event()
    check_download_fails(published, root, bad_input, f"{mirror.url}/mirrored.tar.gz", "timed out")
    mirror.silent.set()


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["absent", "directory"])
def test_an_archive_must_be_a_file(published, root, tmp_path, bad_input, make):
    make(tmp_path / "mine.tar.gz")
    with bad_input("archive", tmp_path / "mine.tar.gz", "no such file"):
        load_cifar(published.name, root, archive=tmp_path / "mine.tar.gz")
    assert not root.exists()


@pytest.mark.parametrize("damage", [truncate, alter, None], ids=["truncated", "altered", "missing"])
@pytest.mark.parametrize("which", ["train_list", "test_list", "meta"])
def test_damaged_batch_is_refused_and_kept(published, installed, root, bad_input, which, damage):
    listed = getattr(published.source, which)
    batch = installed / (listed["filename"] if which == "meta" else listed[0][0])
    batch.write_bytes(damage(batch.read_bytes())) if damage else batch.unlink()
    before = list_names(installed)
    with bad_input(installed, "incomplete or altered", "delete it"):
        load_cifar(published.name, root)
    assert list_names(installed) == before  # the user's files are not deleted


@pytest.mark.parametrize("below", ["", "root"], ids=["is a file", "is below a file"])
def test_a_root_that_cannot_be_made_is_named(published, tmp_path, bad_input, below):
    (tmp_path / "file").write_text("mine")
    root = tmp_path / "file" / below
    with bad_input(root, "cannot write", "set root", "LIGHTNING_CIFAR_DATA"):
        load_cifar(published.name, root, archive=published.archive)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_root_is_named(published, root, bad_input):
    root.mkdir(mode=0o555)
    with bad_input(root, "cannot write", "set root", "LIGHTNING_CIFAR_DATA"):
        load_cifar(published.name, root, archive=published.archive)
    assert list_names(root) == []


def test_a_full_disk_leaves_no_partial_data(published, offer, root, bad_input, full_disk):
    arguments, _ = offer(published.archive.read_bytes())
    before = list_names(root) if root.exists() else []
    with full_disk(10_000), bad_input(root, "cannot write", "set root", "LIGHTNING_CIFAR_DATA"):
        load_cifar(published.name, root, **arguments)
    assert list_names(root) == before
