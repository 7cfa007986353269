"""``test.json`` files: which checkpoint each is of, and where the tests of a run lie."""

import csv
import json
import os
from pathlib import Path

import yaml
from PIL import Image

from lightning_cifar.files import digest_of


def told_apart(checkpoint: str, run_dir: Path) -> dict[str, str]:
    """What ``test.json`` in ``run_dir`` says of it: where it lies, as seen from there, and its digest."""
    return {"checkpoint": os.path.relpath(checkpoint, run_dir), "checkpoint_sha256": digest_of(Path(checkpoint))}


# What a file raises that is damaged, or of something else.
DAMAGED = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError, csv.Error),
    *(SyntaxError, Image.DecompressionBombError),  # Pillow's
)


def tested_in(directory: Path) -> Path | None:
    """The checkpoint that was tested there; None where no test is."""
    try:
        named = json.loads((directory / "test.json").read_text())["checkpoint"]
        return Path(os.path.normpath(directory / named)) if named else None
    except (OSError, *DAMAGED):
        return None


def outdated(test: Path) -> bool:
    """Whether the checkpoint is another one than that test had: the run was gone on with."""
    checkpoint = tested_in(test)
    if checkpoint is None or not checkpoint.is_file():
        return False
    return json.loads((test / "test.json").read_text()).get("checkpoint_sha256") != digest_of(checkpoint)


def run_tested_in(directory: Path) -> Path | None:
    """The run whose checkpoint was tested there, if it is still where it was."""
    checkpoint = tested_in(directory)
    if checkpoint is None:
        return None
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / "config.yaml").exists() else None


def tests_of(run: Path) -> list[Path]:
    """Where checkpoints of this run were tested, below its own directory or where `test` puts it; the newest first."""
    beside = Path(os.path.normpath(run / "../.."))
    found = {file.parent for file in (*run.rglob("test.json"), *beside.glob("test/*/test.json"))}
    of_it = [one for one in found if (tested := run_tested_in(one)) and tested.resolve() == run.resolve()]
    return sorted(of_it, key=lambda one: (one / "test.json").stat().st_mtime, reverse=True)
