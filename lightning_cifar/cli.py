"""``python -m lightning_cifar fit | validate | test | predict``: what the user hears, and the exit status."""

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from lightning_cifar.arguments import layered, overview
from lightning_cifar.errors import InputError

# Said by the libraries at every start, true and of no use here. Everything else is shown.
IRRELEVANT = (
    "LightningCLI's args parameter is intended",  # main(args) is how this package's own tests call it
    "Checkpoint directory .* exists and is not empty",  # that of a run that goes on
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning 2.6 and torch 2.14
    "Be aware that when using `ckpt_path`",  # ModelCheckpoint has no part in a test, and `fit` always has one
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, 2 for bad input, told in one line, 130 for Ctrl-C."""
    args = list(sys.argv[1:] if args is None else args)
    if args == ["--version"]:
        print(f"lightning-cifar {version('lightning-cifar')}")
        return 0
    if args in (["--help"], ["-h"]):
        print(overview())
        return 0
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # they are about how Lightning 2.6 calls it
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        for message in IRRELEVANT:
            warnings.filterwarnings("ignore", message)
        try:
            if args[:1] == ["repeat"]:
                from lightning_cifar import repeat

                return repeat.main(args[1:])
            arguments = layered(args)  # before torch is imported, which takes seconds: typos are answered at once
            from lightning_cifar.commands import CommandLine

            CommandLine(arguments)
        except Exception as error:
            if not is_about_input(error):
                raise
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
                return 1
            return stop.code or 0
    return 0


def is_about_input(error: Exception) -> bool:
    """Whether the user's input is at fault.

    Our complaints have their own type; Lightning's about its flags are ``MisconfigurationException``, or ValueErrors
    that its own files raise.
    """
    if isinstance(error, InputError):
        return True
    import lightning
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, MisconfigurationException) or (
        isinstance(error, ValueError) and Path(lightning.__file__).parent in raised_in.parents
    )
