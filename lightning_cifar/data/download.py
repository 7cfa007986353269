"""Download of one file of known size and SHA-256: several mirrors, retries, and resumption of a partial file."""

import time
from http.client import HTTPException, InvalidURL
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from lightning_cifar.errors import DISK_FULL, InputError
from lightning_cifar.files import digest_of

TIMEOUT = 30  # seconds without a byte until a connection is given up
PAUSES = (0, 1, 3)  # seconds before each try of a mirror


def download(urls: list[str], partial: Path, size: int, digest: str, remedy: str) -> Path:
    """Download to ``partial``, continue after the bytes it already holds, and verify it.

    Args:
        urls: mirrors of the file, tried in turn, several times each.
        partial: destination; after a failure it keeps the bytes received so far.
        size: in bytes; more are not read.
        digest: SHA-256.
        remedy: what the user can do instead, the end of the error message.

    Raises:
        InputError: no mirror delivered the file.
    """
    failures = []
    for url in urls:
        for pause in PAUSES:
            time.sleep(pause)
            resumed = partial.exists()
            try:
                fetch(url, partial, size)
                if digest_of(partial) == digest:
                    return partial
                partial.unlink()
                # After a resumed download the older bytes may be the wrong ones: try again from the start.
                reason, final = "truncated or altered: not the published file", not resumed
            except (OSError, ValueError, HTTPException) as error:  # URLError and timeouts are OSErrors
                if getattr(error, "errno", None) in DISK_FULL:
                    raise
                reason, final = str(getattr(error, "reason", None) or error), is_final(error)
            if final:
                break
        failures.append(f"{url} ({reason})")
    raise InputError(f"cannot download {'; '.join(failures)}. {remedy}")


def is_final(error: Exception) -> bool:
    """Return whether another try would fail in the same way."""
    if isinstance(error, HTTPError):
        error.close()
        return error.code in (400, 401, 403, 404, 405, 410, 451)
    return isinstance(error, (ValueError, InvalidURL))


def fetch(url: str, partial: Path, size: int) -> None:
    """Append to ``partial`` the bytes that it lacks of ``size``, with a progress bar on a terminal.

    Raises:
        OSError: the connection failed or broke off.
        ValueError: ``url`` is not http or https, or the file is longer than ``size``.
    """
    if urlsplit(url).scheme not in ("http", "https"):  # plain http is safe: the digest is checked
        raise ValueError("not an http or https URL")
    have = partial.stat().st_size if partial.exists() else 0
    if have == size:
        return
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=TIMEOUT) as response:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server ignores ranges: start over
        progress = tqdm(desc=url, total=size, initial=have, unit="B", unit_scale=True, disable=None, leave=False)
        with partial.open("ab" if have else "wb") as file, progress:
            while chunk := response.read(1 << 16):
                have += len(chunk)
                if have > size:
                    raise ValueError("longer than the published file")
                file.write(chunk)
                progress.update(len(chunk))
    if have < size:
        raise OSError(f"the download broke off after {have:,} of {size:,} bytes")
