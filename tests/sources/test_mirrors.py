"""Mirrors of CIFAR that refuse, stall, crawl or lie, as `fit` meets them; and which source wins over broken files."""

import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10

from lightning_cifar import main
from lightning_cifar.commands import fit as fit_command
from lightning_cifar.sources import cifar, download

pytestmark = pytest.mark.parametrize("published", [("cifar10", CIFAR10)], indirect=True)
Respond = Callable[["Handler", bytes, int], None]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.server.requested.append(first)  # type: ignore[attr-defined]
        self.server.respond(self, self.server.content, first)  # type: ignore[attr-defined]

    def start(self, content: bytes, first: int, length: int | None = None) -> None:
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first if length is None else length))
        self.end_headers()

    def log_message(self, *_):
        pass


LASTING = 60  # seconds that a bad server keeps its client waiting


def serve(handler: Handler, content: bytes, first: int) -> None:
    handler.start(content, first)
    handler.wfile.write(content[first:])


def stall(handler: Handler, content: bytes, first: int) -> None:
    handler.start(content, first)
    handler.wfile.write(content[first : first + 1000])
    handler.server.ended.wait(LASTING)


def crawl(handler: Handler, content: bytes, first: int) -> None:
    handler.start(content, first)
    for position in range(first, len(content)):
        try:
            handler.wfile.write(content[position : position + 1])
        except OSError:
            return
        if handler.server.ended.wait(0.02):
            return


def promise_more(handler: Handler, content: bytes, first: int) -> None:
    handler.start(content, first, len(content) - first + 1000)


def promise_and_break_off(handler: Handler, content: bytes, first: int) -> None:
    handler.start(content, first)
    handler.wfile.write(content[first : first + 2000])


def send_other_bytes(handler: Handler, content: bytes, first: int) -> None:
    handler.start(content, first)
    handler.wfile.write(bytes(len(content) - first))


def refuse_ranges(handler: Handler, content: bytes, first: int) -> None:
    if first:
        handler.send_error(416)
    else:
        serve(handler, content, 0)


def send_another_range(handler: Handler, content: bytes, first: int) -> None:
    if first:
        handler.start(content, first + 5)
        handler.wfile.write(content[first + 5 :])
    else:
        serve(handler, content, 0)


def name_no_range(handler: Handler, content: bytes, first: int) -> None:
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(content) - first))
    handler.end_headers()
    handler.wfile.write(content[first:])


def send_no_http(handler: Handler, content: bytes, first: int) -> None:
    handler.wfile.write(b"\x1b[31mred\r\n\r\n")


def send_page(handler: Handler, content: bytes, first: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>log in to this network")


def fail(handler: Handler, content: bytes, first: int) -> None:
    handler.send_error(503)


def redirect_to_ftp(handler: Handler, content: bytes, first: int) -> None:
    handler.send_response(302)
    handler.send_header("Location", "ftp://127.0.0.1:9/x")
    handler.end_headers()


def drip(handler: Handler, line: bytes, pause: float) -> None:
    """Send a line again and again."""
    for _ in range(round(LASTING / pause)):
        try:
            handler.wfile.write(line)
        except OSError:
            return
        if handler.server.ended.wait(pause):
            return


def send_headers_without_end(handler: Handler, content: bytes, first: int) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drip(handler, b"x", 0.1)


def ask_for_patience(handler: Handler, content: bytes, first: int) -> None:
    drip(handler, b"HTTP/1.1 100 Continue\r\n\r\n", 0.001)


def redirect_with_a_page_without_end(handler: Handler, content: bytes, first: int) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://127.0.0.1:9/x")
    handler.end_headers()
    drip(handler, bytes(1000), 0.1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSES", (0, 0))
    monkeypatch.setattr(download, "TIMEOUT", 1)  # which a good server must not exceed on a busy machine
    monkeypatch.setattr(download, "LONGEST", 2)
    monkeypatch.setattr(fit_command, "choose_precision", lambda job: sys.exit(0))  # the data has been read


@pytest.fixture
def start_mirror(published) -> Iterator[Callable[[Respond], ThreadingHTTPServer]]:
    """Return a function that starts a server of the archive."""
    with ExitStack() as stack:

        def start(respond: Respond) -> ThreadingHTTPServer:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            server.respond, server.requested, server.ended = respond, [], threading.Event()
            server.content = published.archive.read_bytes()
            server.url = f"http://127.0.0.1:{server.server_port}/{respond.__name__}"
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            for end in (thread.join, server.shutdown, server.ended.set):
                stack.callback(end)
            return server

        yield start


def fit(tiny: list[str], *args: object) -> int:
    words = ["--data.dataset", "cifar10", "--data.val_size", "5", "--run_dir", "run"]
    return main(["fit", *tiny, *words, *map(str, args)])


def is_installed(root: Path = Path("data")) -> bool:
    return not cifar.list_damaged(CIFAR10, root / CIFAR10.base_folder)


@pytest.mark.parametrize(
    "bad",
    [
        *(stall, promise_more, promise_and_break_off, send_other_bytes, send_page, fail, redirect_to_ftp),
        redirect_with_a_page_without_end,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (crawl, send_headers_without_end, ask_for_patience)),
    ],
    ids=lambda f: f.__name__,
)
def test_the_next_mirror_is_tried_by_default(published, start_mirror, tiny, monkeypatch, capsys, bad):
    servers = [start_mirror(bad), start_mirror(serve)]
    monkeypatch.setitem(cifar.MIRRORS, CIFAR10.filename, ["http://127.0.0.1:9/x", *(one.url for one in servers)])
    started = time.monotonic()
    assert fit(tiny) == 0
    assert is_installed()
    assert time.monotonic() - started < LASTING
    out = capsys.readouterr().out
    assert f"{servers[0].url} is given up" in out
    if bad in (stall, crawl, promise_and_break_off):  # what it sent is kept
        assert servers[1].requested[0] > 0
    if bad is crawl:
        assert "MB/s" in out
        assert "s left" in out


@pytest.mark.slow
def test_the_error_names_all_that_was_tried_and_the_official_host_last(
    published, start_mirror, tiny, monkeypatch, capsys
):
    servers = [start_mirror(one) for one in (stall, fail, send_other_bytes)]
    official = start_mirror(promise_more)
    monkeypatch.setitem(cifar.MIRRORS, CIFAR10.filename, [one.url for one in servers])
    monkeypatch.setattr(CIFAR10, "url", official.url)
    assert fit(tiny) == 2
    (line,) = capsys.readouterr().err.splitlines()
    positions = [line.index(one.url) for one in (*servers, official)]
    assert positions == sorted(positions)
    assert "Set url to a mirror" in line
    assert not Path("run").exists()


@pytest.mark.slow
def test_when_all_mirrors_are_slow_the_download_goes_on(published, start_mirror, tiny, monkeypatch):
    def serve_slowly(handler: Handler, content: bytes, first: int) -> None:
        handler.start(content, first)
        for position in range(first, len(content), 5000):
            handler.wfile.write(content[position : position + 5000])
            if handler.server.ended.wait(0.02):
                return

    monkeypatch.setattr(download, "LONGEST", 0.1)
    servers = [start_mirror(serve_slowly) for _ in range(2)]
    monkeypatch.setitem(cifar.MIRRORS, CIFAR10.filename, [one.url for one in servers])
    assert fit(tiny) == 0


def test_an_explicit_url_is_tried_alone(published, start_mirror, tiny, monkeypatch, capsys):
    mirror, mine = start_mirror(serve), start_mirror(fail)
    monkeypatch.setitem(cifar.MIRRORS, CIFAR10.filename, [mirror.url])
    assert fit(tiny, "--data.url", mine.url) == 2
    assert mine.url in capsys.readouterr().err
    assert mirror.requested == []


def test_a_partial_download_that_is_too_long_does_not_block(published, start_mirror, tiny):
    Path("data").mkdir()
    Path("data", f".{CIFAR10.filename}.partial").write_bytes(published.archive.read_bytes() + b"more")
    assert fit(tiny, "--data.url", start_mirror(serve).url) == 0


@pytest.mark.parametrize("respond", [refuse_ranges, send_another_range, name_no_range], ids=lambda f: f.__name__)
def test_a_server_that_cannot_continue_a_download_starts_it_anew(published, start_mirror, tiny, respond):
    Path("data").mkdir()
    Path("data", f".{CIFAR10.filename}.partial").write_bytes(published.archive.read_bytes()[:1000])
    server = start_mirror(respond)
    assert fit(tiny, "--data.url", server.url) == 0
    assert server.requested == [1000, 0]


def test_an_answer_that_is_no_http_is_shown_in_one_line_of_text(start_mirror, tiny, capsys):
    assert fit(tiny, "--data.url", start_mirror(send_no_http).url) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()


def test_a_proxy_that_does_not_answer_is_named(published, tiny, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    assert fit(tiny, "--data.url", "http://mirror.invalid/x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Connection refused, through the proxy 127.0.0.1:9)" in line


def test_a_link_in_place_of_the_partial_download_is_not_followed(published, start_mirror, tiny, capsys):
    Path("data").mkdir()
    Path("mine.txt").write_text("mine")
    Path("data", f".{CIFAR10.filename}.partial").symlink_to(Path("mine.txt").resolve())
    assert fit(tiny, "--data.url", start_mirror(serve).url) == 2
    assert "cannot write the data directory data" in capsys.readouterr().err
    assert Path("mine.txt").read_text() == "mine"


def test_a_broken_tls_connection_is_given_up_as_any_other(published, start_mirror, tiny, monkeypatch, capsys):
    """Its error has OpenSSL's number 1, which is EPERM of files."""
    broken, server, open_url = "https://mirror.invalid/x", start_mirror(serve), download.open_url

    def break_off(request, timeout):
        if request.full_url == broken:
            raise ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] bad record mac")
        return open_url(request, timeout)

    monkeypatch.setattr(download, "open_url", break_off)
    monkeypatch.setitem(cifar.MIRRORS, CIFAR10.filename, [broken, server.url])
    assert fit(tiny) == 0
    assert f"{broken} is given up: " in capsys.readouterr().out


# ------------------------------------------------------------------------------------- explicit source, broken files


def break_archive(archive: bytes) -> None:
    Path("data", CIFAR10.filename).write_bytes(archive[:1000])


def break_folder(archive: bytes) -> None:
    folder = Path("data", CIFAR10.base_folder)
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"broken")
    (folder / "notes.txt").write_text("mine")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["url", "archive"])
@pytest.mark.parametrize("damage", [break_archive, break_folder])
def test_an_explicit_source_wins_over_broken_files(published, start_mirror, tiny, capsys, damage, source):
    Path("data").mkdir()
    damage(published.archive.read_bytes())
    before = {file: file.read_bytes() for file in Path("data").rglob("*") if file.is_file()}
    assert fit(tiny) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "url or archive" in line
    assert before == {
        file: file.read_bytes() for file in Path("data").rglob("*") if file.is_file() and ".lock" not in file.name
    }
    assert fit(tiny, f"--data.{source}", start_mirror(serve).url if source == "url" else published.archive) == 0
    assert is_installed()
    assert damage is break_archive or Path("data", CIFAR10.base_folder, "notes.txt").read_text() == "mine"


def test_an_intact_archive_needs_no_download(published, tiny):
    Path("data").mkdir()
    Path("data", CIFAR10.filename).write_bytes(published.archive.read_bytes())
    assert fit(tiny, "--data.url", "http://127.0.0.1:9/x") == 0


def test_a_redirect_to_ftp_is_named(start_mirror, tiny, capsys):
    assert fit(tiny, "--data.url", start_mirror(redirect_to_ftp).url) == 2
    assert "(redirected to ftp, not http or https)" in capsys.readouterr().err
