"""Decoding in a child process, with a time limit: a child can be killed, a thread that decodes an image cannot.

The parent writes the length and the content of a file; the child answers ``+`` and the pixels, or ``-`` and a line.
"""

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import IO, Any

import numpy as np

from lightning_cifar.data.square import Square
from lightning_cifar.evaluate.listing import read_pixels

SECONDS = 15.0  # for all images of a request


class Decoder:
    """Reads images in a child process, one after the other; not to be used by two threads at once."""

    def __init__(self, square: Square) -> None:
        self.square = square
        self.child: subprocess.Popen[bytes] | None = None
        self.closed = False

    def start(self) -> subprocess.Popen[bytes]:
        """Return the child, started if there is none; in a session of its own, where Ctrl-C does not reach it."""
        if self.child is None or self.child.poll() is not None:
            if self.child is not None:
                self.child.communicate()  # closes its pipes
            path = os.pathsep.join(os.fspath(one) or os.getcwd() for one in sys.path)
            environment = {**os.environ, "PYTHONPATH": path}
            # -P: import from the working directory only if this process does.
            command = [sys.executable, "-P", "-m", __name__, str(self.square.side), self.square.rule]
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
            )
        return self.child

    def read(self, files: Iterable[IO[bytes]]) -> Iterator[Any]:
        """Yield the result of `read_pixels` of each file; an error once `SECONDS` have passed."""
        end = time.monotonic() + SECONDS
        for file in files:
            left = end - time.monotonic()
            yield self.read_one(file.read(), left) if left > 0 else self.refuse()

    def read_one(self, content: bytes, seconds: float) -> Any:
        if self.closed:
            return "the server is stopping"
        child = self.start()
        assert child.stdin is not None
        assert child.stdout is not None
        timer = threading.Timer(seconds, child.kill)
        timer.start()
        try:
            child.stdin.write(len(content).to_bytes(8) + content)
            child.stdin.flush()
            if child.stdout.read(1) == b"+":
                side = self.square.side
                return np.frombuffer(child.stdout.read(3 * side**2), np.uint8).reshape(side, side, 3)
            return child.stdout.readline().decode().rstrip("\n") or self.refuse()
        except (OSError, ValueError):  # killed while it reads or answers
            return self.refuse()
        finally:
            timer.cancel()

    def refuse(self) -> str:
        return f"the images of this request take more than {SECONDS:.0f} seconds to decode: send smaller ones"

    def close(self) -> None:
        """Kill the child; images that are still waiting get an error."""
        self.closed = True
        if self.child is not None:
            self.child.kill()
            self.child.communicate()


def answer(source: IO[bytes], target: IO[bytes], square: Square) -> None:
    """Decode what the parent writes until it has ended."""
    warnings.simplefilter("ignore")  # Pillow's, about odd EXIF data or palettes
    while head := source.read(8):
        found = read_pixels(BytesIO(source.read(int.from_bytes(head))), square)
        target.write(f"-{found}\n".encode() if isinstance(found, str) else b"+" + found.tobytes())
        target.flush()


if __name__ == "__main__":
    answer(sys.stdin.buffer, sys.stdout.buffer, Square(int(sys.argv[1]), sys.argv[2]))  # type: ignore[arg-type]
