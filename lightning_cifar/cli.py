"""``python -m lightning_cifar COMMAND``: dispatch, one-line errors, exit statuses and signals."""

import contextlib
import io
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from lightning_cifar.imports import trust
from lightning_cifar.run.exit_status import explain
from lightning_cifar.run.messages import restored_messages
from lightning_cifar.run.options import (
    PACKAGE_COMMANDS,
    TRAINER_COMMANDS,
    format_overview,
    format_short_help,
    name_flag,
    values_of,
)
from lightning_cifar.run.settings import layer

TRACEBACK = "LIGHTNING_CIFAR_TRACEBACK"  # environment variable: also print the traceback of an explained error
# Warnings of the libraries at every start, of no use here. All others are shown.
IRRELEVANT = (
    "LightningCLI's args parameter is intended",  # main(args) is how tests and notebooks call it
    "Checkpoint directory .* exists and is not empty",  # that of a resumed run
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning 2.6 and torch 2.14
    "Be aware that when using `ckpt_path`.*('LastCheckpoint'|\\['Timer'\\])",  # in LearningRateFinder; of max_time
    "It is recommended to use .*sync_dist=True",  # for values that are equal in all processes
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Every error is one line on standard error. Set ``LIGHTNING_CIFAR_TRACEBACK=1`` to see its traceback too.

    Args:
        args: the words after ``python -m lightning_cifar``; default: those of this process.

    Returns:
        0: done. 1: out of memory or disk space. 2: bad input. 3: training diverged. 130: Ctrl-C. 143: SIGTERM. 141:
        the reader of the output has ended, as after ``| head``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show
    try:
        status = answer([expand_home(word) for word in (sys.argv[1:] if args is None else args)])
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):  # another pipe is broken
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 128 + signal.SIGPIPE


def expand_home(word: str) -> str:
    """Return the word with a leading ``~`` of its value expanded, which shells do not do in ``--name=~/value``."""
    name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return name + equals + os.path.expanduser(value)


def answer(args: list[str]) -> int:
    """Answer help and version at once, without torch; run any other command and explain how it ended."""
    if args == ["--version"]:
        print(f"lightning-cifar {version('lightning-cifar')}")
        return 0
    if args in (["--help"], ["-h"]):
        print(format_overview())
        return 0
    if args[:1] and args[0] in TRAINER_COMMANDS and args[1:] in (["--help"], ["-h"]):
        print(format_short_help(args[0]))
        return 0
    packages = [one for value in values_of(args, "--trust_config") for one in value.split(",")]
    with process_settings(), trust(*packages):
        try:
            run(args)
        except Exception as error:
            status, message = explain(error, args[:1] in (["fit"], ["repeat"], ["sweep"]))
            if status is None:
                raise
            if os.environ.get(TRACEBACK, "0") not in ("", "0"):
                traceback.print_exception(error)
            print("error: " + name_flag(" ".join(message.split())), file=sys.stderr)
            return status
        except (KeyboardInterrupt, SystemExit) as stop:
            if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
                print("interrupted", file=sys.stderr)  # Lightning turns Ctrl-C into a SystemExit
                return 130
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
                return 1
            return stop.code or 0
    return 0


def run(args: list[str]) -> None:
    """Run a command: its module's ``main`` gets the words after it; a Trainer's command gets a parsed job."""
    if args and (args[0] in PACKAGE_COMMANDS or predicts_files(args)):
        raise SystemExit(import_module(f"lightning_cifar.commands.{args[0]}").main(args[1:]))
    args = ["--help" if word == "--help-all" else word for word in args]
    layered = layer(args)  # before torch is imported, which takes seconds: typing errors are answered at once
    from lightning_cifar.run.job import parse, print_model

    module = "predict.test_set" if args[0] == "predict" else args[0]
    execute = getattr(import_module(f"lightning_cifar.commands.{module}"), args[0])
    with rank_zero_output():
        job = parse(layered, args)
        if job.settings["print_model"]:
            print_model(job)
        else:
            execute(job)


def predicts_files(args: list[str]) -> bool:
    """Whether this is ``predict --images``, which needs neither Trainer nor dataset."""
    return args[0] == "predict" and any(word.split("=")[0] == "--images" for word in args)


@contextlib.contextmanager
def rank_zero_output() -> Iterator[None]:
    """Let only rank 0 print; a process that rank 0 started ends in silence, for it is killed with rank 0's report."""
    from lightning_cifar.distributed import is_rank_zero, values_of_rank_zero

    if is_rank_zero():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        except SystemExit:
            if not values_of_rank_zero():
                raise
            # When a process that rank 0 started fails, Lightning kills rank 0, which may be writing a checkpoint.


@contextlib.contextmanager
def process_settings() -> Iterator[None]:
    """Set warnings, log levels and the handler of SIGTERM for a command; restore them afterwards, for notebooks."""
    environment = dict(os.environ)
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # they are about how Lightning 2.6 calls it
    try:
        with warnings.catch_warnings(), exit_on_sigterm(), restored_messages():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            for message in IRRELEVANT:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for name in [name for name in os.environ if not name.startswith("WANDB")]:  # wandb's process lives on
            if name not in environment:
                del os.environ[name]
        os.environ.update(environment)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command in order, with status 143; training handles it in its own way."""

    def end(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, end), sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


def send_again(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal once more whose exception was raised in a finaliser, where Python drops it."""
    if isinstance(lost.exc_value, SystemExit | KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(lost.exc_value, SystemExit) else signal.SIGINT
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(lost)
