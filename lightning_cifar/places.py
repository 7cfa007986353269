"""Directories that are called by the time, and files that are told by their digest; known without torch."""

import datetime
import hashlib
from pathlib import Path


def timed_directory(parent: Path) -> Path:
    """Makes ``parent/<time>``; ``parent/<time>-2`` ... where others were made in the same second."""
    wanted = parent / timestamp()
    directory, number = wanted, 1
    while True:
        try:
            directory.mkdir(parents=True)
            return directory
        except FileExistsError:
            number += 1
            directory = wanted.with_name(f"{wanted.name}-{number}")


def timestamp() -> str:
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def has_files(directory: Path) -> bool:
    """Whether anything lies in it, but for what is hidden."""
    return any(not entry.name.startswith(".") for entry in directory.iterdir())


def digest_of(file: Path) -> str:
    """SHA-256 of what is in it."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
