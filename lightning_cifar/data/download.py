"""A file from the net, of known size and SHA-256: from several places, resumed where it broke off, never half there."""

import contextlib
import shutil
import time
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from lightning_cifar.errors import DISK_FULL, InputError
from lightning_cifar.files import digest_of

TIMEOUT = 30  # seconds without a byte before a connection is given up
PAUSES = (0, 1, 3)  # seconds before each try of a place


def download(urls: list[str], partial: Path, size: int, digest: str, remedy: str) -> Path:
    """Fetches into ``partial``, going on behind what is there, and verifies it.

    Args:
        urls: places of the same file, tried in turn, several times each.
        partial: where to; what came before a failure stays there.
        size: in bytes; more is not read.
        digest: SHA-256.
        remedy: what else the user can do, for the message.

    Raises:
        InputError: no place gave it.
    """
    failures = []
    for url in urls:
        for pause in PAUSES:
            time.sleep(pause)
            had = partial.exists()
            try:
                fetch(url, partial, size)
                if digest_of(partial) == digest:
                    return partial
                partial.unlink()
                reason, final = "truncated or altered: not the published file", not had  # else what was there may be it
            except (OSError, ValueError, HTTPException) as error:  # URLError and timeouts are OSErrors
                if getattr(error, "errno", None) in DISK_FULL:
                    raise  # the disk's fault, not the network's
                reason, final = str(getattr(error, "reason", None) or error), is_final(error)
            if final:
                break
        failures.append(f"{url} ({reason})")
    raise InputError(f"cannot download {'; '.join(failures)}. {remedy}")


def is_final(error: Exception) -> bool:
    """Whether another try would end the same."""
    if isinstance(error, HTTPError):
        error.close()
        return error.code in (400, 401, 403, 404, 405, 410, 451)
    return isinstance(error, (ValueError, InvalidURL))


def fetch(url: str, partial: Path, size: int) -> None:
    """What ``partial`` lacks of ``size`` bytes, with a progress bar on a terminal.

    Raises:
        OSError: it broke off, or is longer.
        ValueError: ``url`` is none of http or https.
    """
    if urlsplit(url).scheme not in ("http", "https"):  # http too: the digest tells what came
        raise ValueError("not an address of http or https")
    have = partial.stat().st_size if partial.exists() else 0
    if have == size:
        return
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with contextlib.ExitStack() as stack:
        response: Any = stack.enter_context(urlopen(request, timeout=TIMEOUT))
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # from the beginning, if it cannot otherwise
        file: IO[bytes] = stack.enter_context(partial.open("ab" if have else "wb"))
        body = stack.enter_context(
            tqdm.wrapattr(response, "read", total=size, initial=have, desc=url, disable=None, leave=False)
        )
        shutil.copyfileobj(Limited(body, size - have), file, 1 << 16)
    if (came := partial.stat().st_size) < size:
        raise OSError(f"it broke off after {came:,} of {size:,} bytes")


class Limited:
    """Reads at most so many bytes."""

    def __init__(self, body: Any, left: int) -> None:
        self.body, self.left = body, left

    def read(self, size: int = 1 << 16, /) -> bytes:
        chunk: bytes = self.body.read(min(size, self.left + 1))
        self.left -= len(chunk)
        if self.left < 0:
            raise ValueError("it is longer than the published file")
        return chunk
