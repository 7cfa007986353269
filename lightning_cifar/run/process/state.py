"""Settings of the process during a command: output, warnings, environment, SIGTERM. Notebooks get theirs back."""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_cifar.errors import DISK_FULL, InputError
from lightning_cifar.run.process.output import drop_output, has_no_reader
from lightning_cifar.run.settings.options import TRAINER_COMMANDS, predicts_files

# Warnings of the libraries at every start, of no use here. All others are shown.
IRRELEVANT = (
    "LightningCLI's args parameter is intended",  # main(args) is how tests and notebooks call it
    "Checkpoint directory .* exists and is not empty",  # that of a resumed run
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning 2.6 and torch 2.14
    "Be aware that when using `ckpt_path`.*('LastCheckpoint'|\\['Timer'\\])",  # in LearningRateFinder; of max_time
    "It is recommended to use .*sync_dist=True",  # for values that are equal in all processes
)

# Lightning's logs: warnings, and what its callbacks print when they are asked to, for example by ``verbose``.
QUIET = ("lightning.pytorch", "lightning.fabric")
SHARED = "lightning.pytorch.utilities.rank_zero"  # callbacks log by it, and so does the Trainer at every start
SHOWN = ("lightning.pytorch.callbacks", "lightning.pytorch.tuner", SHARED)

RUNNING = threading.RLock()  # held by the thread whose command trains or tests


def prepare_output() -> None:
    """Make standard output and error take any text, also in a process that was started without them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  for the whole process
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show


def end_output(error: OSError) -> int:
    """Return the exit status after standard output failed: its reader has ended, or its disk is full. Else raise."""
    if isinstance(error, BrokenPipeError):
        if not has_no_reader(sys.stdout.fileno()):  # another pipe is broken
            raise error
        status = 128 + signal.SIGPIPE
    elif error.errno in DISK_FULL:
        with contextlib.suppress(OSError):
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        status = 1
    else:
        raise error
    drop_output(sys.stdout.fileno())  # Python flushes once more when it ends
    return status


@contextlib.contextmanager
def rank_zero_output() -> Iterator[None]:
    """Let only rank 0 print; a process that rank 0 started ends in silence, with its error left to rank 0."""
    from lightning_cifar.run.process.rank_zero import is_rank_zero, values_of_rank_zero
    from lightning_cifar.run.process.ranks import report_failure

    if is_rank_zero():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        except SystemExit:
            if not values_of_rank_zero():
                raise
            # Not a failure, of which rank 0 would hear: it may be writing a checkpoint.
        except Exception as error:
            if (status := report_failure(error)) is None:
                raise
            raise SystemExit(status) from error


@contextlib.contextmanager
def process_settings() -> Iterator[None]:
    """Set warnings, log levels and the handler of SIGTERM for a command; restore them afterwards, for notebooks."""
    environment = dict(os.environ)
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # they are about how Lightning 2.6 calls it
    try:
        with warnings.catch_warnings(), exit_on_sigterm(), restore_messages():
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
def restore_torch() -> Iterator[None]:
    """Restore afterwards, for notebooks, what a Trainer sets in torch, and end the process group that it leaves."""
    import torch
    import torch.distributed as dist

    mode, benchmark, hook = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, sys.excepthook
    may_join = dist.is_available() and not dist.is_initialized()
    failed = True
    try:
        yield
        failed = False
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
        sys.excepthook = hook  # a process group sets one that names the rank
        # After a failure of several processes this might wait for one that has ended.
        if may_join and dist.is_initialized() and (dist.get_world_size() == 1 or not failed):
            dist.destroy_process_group()


@contextlib.contextmanager
def refuse_second_thread(args: Sequence[str]) -> Iterator[None]:
    """Refuse a command that trains or tests while another thread's does: random numbers belong to the whole process.

    So does the working directory, which the parser changes for a moment.
    """
    if not args or args[0] not in (*TRAINER_COMMANDS, "repeat", "sweep") or predicts_files(args):
        yield
        return
    if not RUNNING.acquire(blocking=False):
        why = "random numbers and the working directory belong to the whole process"
        raise InputError(f"{args[0]}: another thread of this process trains or tests, and {why}: start a process")
    try:
        yield
    finally:
        RUNNING.release()


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command in order, with status 143; training handles it, and others, in its own way."""

    def end(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, end)
    hook, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield
    finally:
        for number, handler in handlers.items():  # a training that failed may have left its own
            if handler is not None:  # of another language
                signal.signal(number, handler)
        sys.unraisablehook = hook


def send_again(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal once more whose exception was raised in a finaliser, where Python drops it."""
    if isinstance(lost.exc_value, SystemExit | KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(lost.exc_value, SystemExit) else signal.SIGINT
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(lost)


def show_messages() -> None:
    """Drop Lightning's messages, except of callbacks; to call after Lightning is imported, which sets the levels."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SHOWN:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger(SHARED).addFilter(is_of_callback)


def is_of_callback(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or Path(record.pathname).parent.name in ("callbacks", "tuner")


@contextlib.contextmanager
def restore_messages() -> Iterator[None]:
    """Restore afterwards, for notebooks, what `show_messages` changes."""
    loggers = [logging.getLogger(name) for name in (*QUIET, *SHOWN)]
    levels = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.getLogger(SHARED).removeFilter(is_of_callback)
