"""Download of one file of known size and SHA-256: mirrors in turn, each given up when silent or slow, and resumed."""

import errno
import os
import time
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from socket import SHUT_RDWR
from ssl import SSLError
from threading import Timer
from typing import Any
from urllib import request as web
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tqdm import tqdm

from lightning_cifar.errors import DISK_FULL, FORBIDDEN, InputError
from lightning_cifar.files import compute_digest

PAUSES = (0, 1, 3)  # seconds before each round of tries
TIMEOUT, ONLY_TIMEOUT = 5, 30  # seconds without a byte until a mirror is given up; the only one gets more
LONGEST = 600  # seconds for the whole file at a mirror's speed; slower ones are given up. Ten times more in each round
LOCAL = (*DISK_FULL, *FORBIDDEN, errno.ELOOP)  # errors of the file, not of a mirror


class TimedResponse(HTTPResponse):
    """A response whose headers get twice the time of a silence: Python would read on as long as some byte comes."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.end = Timer(2 * sock.gettimeout(), sock.shutdown, [SHUT_RDWR])

    def begin(self) -> None:
        self.end.start()
        try:
            super().begin()
        finally:
            self.end.cancel()


class BoundedHandler(web.HTTPSHandler, web.HTTPHandler, web.HTTPRedirectHandler, web.FTPHandler):
    """Read no headers and no redirect without end, and do not follow one to FTP."""

    def do_open(self, http_class: Any, *args: Any, **options: Any) -> Any:
        connection: Any = type("Connection", (http_class,), {"response_class": TimedResponse})
        return super().do_open(connection, *args, **options)

    def redirect_request(self, req: Any, fp: Any, *args: Any) -> Any:
        fp.read = fp.close  # Python reads the page that comes with it
        return super().redirect_request(req, fp, *args)

    def ftp_open(self, req: web.Request) -> Any:
        raise URLError("redirected to ftp, not http or https")


def open_url(request: web.Request, timeout: float) -> Any:
    """Open a URL as Python's ``urlopen`` does, with the exceptions of `BoundedHandler`."""
    return web.build_opener(BoundedHandler).open(request, timeout=timeout)


def open_after(url: str, have: int, size: int, timeout: float) -> tuple[Any, int]:
    """Open a URL after ``have`` of its bytes, or else from the start; return the response and the bytes before it."""
    if 0 < have < size:
        try:
            answer = open_url(web.Request(url, headers={"Range": f"bytes={have}-"}), timeout)
        except HTTPError as error:
            if error.code != 416:
                raise
            answer = error
        if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-{size - 1}/"):
            return answer, have
        if answer.status == 200:  # the server ignores ranges
            return answer, 0
        answer.close()
    return open_url(web.Request(url), timeout), 0


def describe(url: str, error: Exception) -> str:
    """Return an error as short text, for a server may have sent any bytes; and the proxy, which may be its cause."""
    text = " ".join(str(getattr(error, "reason", None) or error or type(error).__name__).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    host, proxy = url.partition("//")[2].partition("/")[0], web.getproxies().get(url.partition(":")[0])
    return f"{text}, through the proxy {proxy.rpartition('@')[2]}" if proxy and not web.proxy_bypass(host) else text


def download(urls: list[str], partial: Path, size: int, digest: str, remedy: str) -> Path:
    """Download to ``partial``, continue after the bytes it already holds, and verify its ``size`` and SHA-256.

    The mirrors in ``urls`` are tried in turn, in several rounds. If none delivers the file, ``partial`` keeps the bytes
    received so far, and the `InputError` ends with ``remedy``.
    """
    left, failures = list(urls), dict.fromkeys(urls, "")
    timeout = TIMEOUT if len(urls) > 1 else ONLY_TIMEOUT
    for number, pause in enumerate(PAUSES):
        slowest = size / (LONGEST * 10**number) if len(urls) > 1 else 0
        time.sleep(pause if left else 0)
        for url in list(left):
            try:
                fetch_verified(url, partial, size, digest, timeout, slowest)
                return partial
            except (OSError, ValueError, HTTPException) as error:  # URLError and timeouts are OSErrors
                if getattr(error, "errno", None) in LOCAL and not isinstance(error, SSLError):  # OpenSSL's numbers
                    raise
                failures[url] = describe(url, error)
                if len(urls) > 1:
                    print(f"{url} is given up: {failures[url]}", flush=True)
                if is_final(error):
                    left.remove(url)
    raise InputError(f"cannot download {'; '.join(f'{url} ({why})' for url, why in failures.items())}. {remedy}")


def is_final(error: Exception) -> bool:
    """Return whether another try would fail in the same way."""
    if isinstance(error, HTTPError):
        error.close()
        return error.code in (400, 401, 403, 404, 405, 410, 451)
    return isinstance(error, (ValueError, InvalidURL))


def fetch_verified(url: str, partial: Path, size: int, digest: str, timeout: float, slowest: float) -> None:
    """Call `fetch` and compare the digest; raise ValueError if the mirror has another file."""
    while True:
        resumed = partial.exists()
        fetch(url, partial, size, timeout, slowest)
        if compute_digest(partial) == digest:
            return
        partial.unlink()
        if not resumed:  # else the older bytes may be the wrong ones: try again from the start
            raise ValueError("truncated or altered: not the published file")


def fetch(url: str, partial: Path, size: int, timeout: float, slowest: float) -> None:
    """Append to ``partial`` the bytes that it lacks of ``size``, and show speed and time left.

    Raises:
        OSError: the connection failed, broke off, was silent for ``timeout`` seconds or below ``slowest`` bytes/s.
        ValueError: ``url`` is not http or https, or its file has another size.
    """
    if urlsplit(url).scheme not in ("http", "https"):  # plain http is safe: the digest is checked
        raise ValueError("not an http or https URL")
    have = partial.stat().st_size if partial.exists() else 0
    if have == size:
        return
    opened, have = open_after(url, have, size, timeout)
    with opened as response:
        if (total := have + int(response.headers.get("Content-Length", size - have))) != size:
            raise ValueError(f"{total:,} bytes, not the {size:,} of the published file")
        progress = tqdm(desc=url, total=size, initial=have, unit="B", unit_scale=True, disable=None, leave=False)
        with open(partial, "ab" if have else "wb", opener=open_no_link) as file, progress:
            before, since = have, time.monotonic()
            while have < size and (chunk := response.read1(1 << 16)):
                have += len(chunk)
                if have > size:
                    raise ValueError("longer than the published file")
                file.write(chunk)
                progress.update(len(chunk))
                if (seconds := time.monotonic() - since) > TIMEOUT:
                    speed = (have - before) / seconds
                    before, since = have, since + seconds
                    if progress.disable:  # no terminal
                        left = f"{speed / 1e6:.2f} MB/s, {(size - have) / speed:.0f} s left"
                        print(f"{url}: {have / 1e6:.1f} of {size / 1e6:.1f} MB, {left}", flush=True)
                    if speed < slowest:
                        raise OSError(f"only {speed / 1e3:,.1f} kB/s")
    if have < size:
        raise OSError(f"the download broke off after {have:,} of {size:,} bytes")


def open_no_link(path: str, flags: int) -> int:
    """Open a file as ``open`` does, but refuse a symbolic link, which may lead to somebody's file."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
