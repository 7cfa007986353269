"""``python -m lightning_cifar COMMAND``: dispatch, one-line errors and exit statuses."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from itertools import pairwise

from lightning_cifar.errors import InputError
from lightning_cifar.imports import trust
from lightning_cifar.run.process.exit_status import explain, find_stop, is_signal, prints_tracebacks
from lightning_cifar.run.process.state import (
    end_output,
    prepare_output,
    process_settings,
    rank_zero_output,
    refuse_second_thread,
)
from lightning_cifar.run.settings.options import (
    PACKAGE_COMMANDS,
    TRAINER_COMMANDS,
    format_overview,
    format_short_help,
    last_value,
    name_flag,
    predicts_files,
)
from lightning_cifar.run.settings.precedence import layer
from lightning_cifar.run.settings.shell import split_command

NO_ADVICE = ("fit", "repeat", "sweep", "serve")  # they say how they are resumed; a server has nothing to resume


def main(args: Sequence[str] | str | None = None) -> int:
    """Run the command line and return the exit status.

    Every error is one line on standard error. Set ``LIGHTNING_CIFAR_TRACEBACK=1`` to see its traceback too.

    Args:
        args: the words after ``python -m lightning_cifar``, in a list or as typed; default: those of this process.

    Returns:
        0: done. 1: out of memory or disk space; or `doctor`, `export` or `predict` found a fault. 2: bad input.
        3: training diverged. 130: Ctrl-C. 143: SIGTERM. 129: a closed terminal. 141: the reader of the output has
        ended, as after ``| head``.
    """
    prepare_output()
    try:
        words = sys.argv[1:] if args is None else split_command(args) if isinstance(args, str) else args
        status = answer([expand_home(str(word)) for word in words])
        sys.stdout.flush()
        return status
    except OSError as error:  # of the output; `answer` explains others
        return end_output(error)


def expand_home(word: str) -> str:
    """Return the word with a leading ``~`` of its value expanded, which shells do not do in ``--name=~/value``."""
    name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return name + equals + os.path.expanduser(value)


def answer(args: list[str]) -> int:
    """Answer help and version at once, without torch; run any other command and explain how it ended."""
    if args == ["--version"]:
        from importlib.metadata import version  # late: help does not wait for it

        print(f"lightning-cifar {version('lightning-cifar')}")
        return 0
    if args in (["--help"], ["-h"]):
        print(format_overview())
        return 0
    if args[:1] and args[0] in TRAINER_COMMANDS and args[1:] in (["--help"], ["-h"]):
        print(format_short_help(args[0]))
        return 0
    packages = last_value(args, "--trust_config")
    with ExitStack() as ending:
        try:
            ending.enter_context(refuse_second_thread(args))  # first: a thread that is refused changes no settings
            ending.enter_context(process_settings())
            ending.enter_context(trust(*(packages.split(",") if packages else ())))
            run(args)
        except Exception as error:
            status, message = explain(error, args[:1] in (["fit"], ["repeat"], ["sweep"]))
            if status is None:
                if (stop := find_stop(error)) is None:
                    raise
                return report_stop(stop, args[0])
            if prints_tracebacks():
                traceback.print_exception(error)
            print("error: " + name_flag(" ".join(message.split())), file=sys.stderr)
            return status
        except (KeyboardInterrupt, SystemExit) as stop:
            return report_stop(stop, args[0])
    return 0


def report_stop(stop: KeyboardInterrupt | SystemExit, command: str) -> int:
    """Print why the command was ended, unless by success, and return the exit status."""
    code = getattr(stop, "code", None)
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        code = 128 + signal.SIGINT  # Lightning turns Ctrl-C into a SystemExit
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    if is_signal(code) and code != 128 + signal.SIGPIPE:
        print("interrupted" + ("" if command in NO_ADVICE else ": run the command again"), file=sys.stderr)
    return code or 0


def run(args: list[str]) -> None:
    """Run a command: its module's ``main`` gets the words after it; a Trainer's command gets a parsed job."""
    for before, word in pairwise(["", *args]):
        if (word.partition("=")[2] if word.startswith("--") else word).startswith("~/"):
            raise InputError(f"{word}: there is no home directory to put for ~: set HOME, or write the whole path")
        is_empty = word == "" or (word.startswith("--") and word.partition("=")[1:] == ("=", ""))
        if is_empty and not (word or before).startswith("--trainer."):  # a logger's name may be empty
            empty = word or (f"the word after {before}" if before else "the command")
            raise InputError(f"{empty} has an empty value: is a variable of the shell unset?")
    if args and (args[0] in PACKAGE_COMMANDS or predicts_files(args)):
        raise SystemExit(import_module(f"lightning_cifar.commands.{args[0]}").main(args[1:]))
    args = ["--help" if word == "--help-all" else word for word in args]
    layered = layer(args)  # before torch is imported, which takes seconds: typing errors are answered at once
    from lightning_cifar.run.console.network_table import format_layers
    from lightning_cifar.run.job import parse

    module = "predict.test_set" if args[0] == "predict" else args[0]
    execute = getattr(import_module(f"lightning_cifar.commands.{module}"), args[0])
    with rank_zero_output():
        job = parse(layered, args)
        if job.settings["print_model"]:
            print(format_layers(job.model, job.data.hparams["image_size"]))
        else:
            execute(job)
