"""``python -m lightning_cifar COMMAND``: what the user hears, and the exit status."""

import contextlib
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from lightning_cifar.errors import told
from lightning_cifar.options import OWN_COMMANDS, TRAINER_COMMANDS, overview, short_help
from lightning_cifar.run.settings import layered

# Said by the libraries at every start, true and of no use here. Everything else is shown.
IRRELEVANT = (
    "LightningCLI's args parameter is intended",  # main(args) is how this package's own tests call it
    "Checkpoint directory .* exists and is not empty",  # that of a run that goes on
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning 2.6 and torch 2.14
    "It is recommended to use .*sync_dist=True",  # for what is the same in all processes
    "Be aware that when using `ckpt_path`",  # ModelCheckpoint has no part in a test, and `fit` always has one
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status.

    That is 0; 1 where memory or disk did not suffice; 2 for bad input; 3 where training diverged; each told in one
    line. 130 after Ctrl-C, 143 after SIGTERM, 141 where who read the output is gone, as after `| head`.
    """
    try:
        status = answered(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):  # it is another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 128 + signal.SIGPIPE


def answered(args: list[str]) -> int:
    """Says at once what needs no torch; else runs the command and tells how it ended."""
    if args == ["--version"]:
        print(f"lightning-cifar {version('lightning-cifar')}")
        return 0
    if args in (["--help"], ["-h"]):
        print(overview())
        return 0
    if args[:1] and args[0] in TRAINER_COMMANDS and args[1:] in (["--help"], ["-h"]):
        print(short_help(args[0]))
        return 0
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # they are about how Lightning 2.6 calls it
    with warnings.catch_warnings(), ended_by_sigterm():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        for message in IRRELEVANT:
            warnings.filterwarnings("ignore", message)
        try:
            run(args)
        except Exception as error:
            status, words = told(error)
            if status is None:
                raise
            print("error: " + " ".join(words.split()), file=sys.stderr)
            return status
        except (KeyboardInterrupt, SystemExit) as stop:
            if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
                print("interrupted", file=sys.stderr)  # Lightning catches Ctrl-C and makes a SystemExit of it
                return 130
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
                return 1
            return stop.code or 0
    return 0


def own_images(args: list[str]) -> bool:
    """Whether it is ``predict`` of one's own pictures, which Lightning has no part in."""
    return args[0] == "predict" and any(one.split("=")[0] == "--images" for one in args)


def run(args: list[str]) -> None:
    if args and (args[0] in OWN_COMMANDS or own_images(args)):
        raise SystemExit(import_module(f"lightning_cifar.commands.{args[0]}").main(args[1:]))
    args = ["--help" if one == "--help-all" else one for one in args]
    arguments = layered(args)  # before torch is imported, which takes seconds: typos are answered at once
    from lightning_cifar.commands.command_line import CommandLine
    from lightning_cifar.distributed import handed_down, is_first

    if is_first():
        CommandLine(arguments, typed=args)
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # the first process tells it all
        try:
            CommandLine(arguments, typed=args)
        except SystemExit:
            if not handed_down():
                raise
            # Lightning kills the first process, where it writes its last, when one that it started fails.


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Has SIGTERM end the command in order, with status 143; training has its own way."""

    def end(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, end), sys.unraisablehook
    sys.unraisablehook = ask_again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


def ask_again(lost: "sys.UnraisableHookArgs") -> None:
    """A signal that comes while an object is finalised raises there, where Python drops it: it is sent once more."""
    if isinstance(lost.exc_value, SystemExit | KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(lost.exc_value, SystemExit) else signal.SIGINT
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(lost)
