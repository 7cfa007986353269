"""Help, version and typing errors do not import torch, which takes seconds."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from importlib.metadata import version

import pytest

from lightning_cifar import main
from lightning_cifar.run.process.state import exit_on_sigterm
from lightning_cifar.run.settings.options import RECIPES, SUBCOMMANDS, TRAINER_COMMANDS, check_option

WITHOUT_TORCH = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from lightning_cifar import main
for line in sys.stdin:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        status = main(json.loads(line))
    print(json.dumps([status, out.getvalue(), err.getvalue(), "torch" in sys.modules]), flush=True)
"""


@pytest.fixture(scope="module")
def run_without_torch():
    """Return a function that runs a command in another process; it returns status, standard output and errors."""
    command = [sys.executable, "-c", WITHOUT_TORCH]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

        def run(*args: str) -> tuple[int, str, str]:
            print(json.dumps(args), file=child.stdin, flush=True)
            status, out, err, has_torch = json.loads(child.stdout.readline())
            assert not has_torch
            return status, out, err

        yield run


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_commands_and_recipes_on_one_screen(flag, run_without_torch):
    status, out, err = run_without_torch(flag)
    assert (status, err) == (0, "")
    assert out.startswith("usage: python -m lightning_cifar ")
    assert all(f"\n  {name} " in out for name in (*SUBCOMMANDS, *RECIPES))
    assert len(out.splitlines()) <= 30
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("subcommand", TRAINER_COMMANDS)
def test_help_of_a_command_has_every_option_on_one_screen(subcommand, run_without_torch):
    status, out, err = run_without_torch(subcommand, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: python -m lightning_cifar {subcommand} ")
    words = out.replace(",", " ").split()
    assert {"--recipe", "--ckpt_path", "batch_size", "widths", "learning_rate", "max_epochs"} <= {*words}
    for option, command in {"--images": "predict", "--resume": "fit", "--corruptions": "test"}.items():
        assert (option in words) == (subcommand == command)
    assert len(out.splitlines()) <= 52
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
def test_closed_output_pipe_is_not_an_error():
    shell = f"{sys.executable} -m lightning_cifar --help | head -c 1; echo ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout in ("u0\n", "u141\n")  # depends on which process is faster


def test_signal_during_finalisation_is_not_lost():
    class Thing:
        pass

    def callback(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

    with pytest.raises(SystemExit) as stop, exit_on_sigterm():  # noqa: PT012
        thing = Thing()
        watched = weakref.ref(thing, callback)
        del thing
        time.sleep(60)  # the signal comes first
        assert watched
    assert stop.value.code == 143


def test_version_is_printed(run_without_torch):
    assert run_without_torch("--version") == (0, f"lightning-cifar {version('lightning-cifar')}\n", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], f"name a command: {', '.join(SUBCOMMANDS)}; --help lists what they do"),
        (["fti"], f"no command 'fti': did you mean fit? There are {', '.join(SUBCOMMANDS)}"),
        (["train"], f"no command 'train': did you mean fit? There are {', '.join(SUBCOMMANDS)}"),
        (
            ["fit", "--recipe", "fats"],
            f"no recipe 'fats': did you mean fast? There are {', '.join(RECIPES)}",
        ),
        (["fit", "--recip", "fast"], "no option --recip: did you mean --recipe?"),
        (["fit", "--model.width", "[1]"], "no option --model.width: did you mean --model.widths?"),
        (["fit", "--trainer.max_epoch=3"], "no option --trainer.max_epoch: did you mean --trainer.max_epochs?"),
        (["fit", "--data.xyzzy_plugh", "3"], "no option --data.xyzzy_plugh: fit --help-all lists them"),
        (["repeat", "--help-all"], "no option --help-all: did you mean --help?"),
        (["repeat", "--corruptions"], "--corruptions goes with test --ckpt_path FILE"),
        (["repeat", "--n", "two"], "repeat: argument --n: invalid int value: 'two'"),
        (["repeat", "--model.width", "[1]"], "no option --model.width: did you mean --model.widths?"),
        (["repeat", "--compare", "no.json", "no.json"], "--compare no.json cannot be read: No such file or directory"),
        (
            ["export", "--ckpt_path", "x", "--output", "x.bin"],
            "--output x.bin: the suffix must be one of .safetensors, .onnx, .pt2",
        ),
        (["sweep", "--search", "model.width=1,2"], "no option --model.width: did you mean --model.widths?"),
        (["sweep", "--model.width", "[1]"], "no option --model.width: did you mean --model.widths?"),
        (["fit", "--max-epochs", "3"], "no option --max-epochs: did you mean --trainer.max_epochs?"),
        (["fit", "--seed", "3"], "no option --seed: did you mean --seed_everything?"),
        (["fit", "--pretrained"], "no option --pretrained: did you mean --init_from?"),
        (["repeat", "--seeds", "3"], "no option --seeds: did you mean --n?"),
        (["sweep", "--trials=3"], "no option --trials: did you mean --n_trials?"),
        (["serve", "--prot", "3"], "serve: unrecognized arguments: --prot 3; did you mean --port?"),
        (["fit", "--lr", "1"], "no option --lr: did you mean --model.learning_rate?"),
        (["fit", "--model.lr=1"], "no option --model.lr: did you mean --model.learning_rate?"),
        (["fit", "--batch_size", "1"], "no option --batch_size: did you mean --data.batch_size?"),
        (["fit", "--epochs", "1"], "no option --epochs: did you mean --trainer.max_epochs?"),
        (["fit", "--trainer.widths", "1"], "no option --trainer.widths: did you mean --model.widths?"),
        (["fit", "--learningrate", "3"], "no option --learningrate: did you mean --model.learning_rate?"),
        (["fit", "--trainer.gpus", "3"], "no option --trainer.gpus: did you mean --trainer.devices?"),
        (["fit", "--model.hlp"], "no option --model.hlp: fit --help-all lists them"),
        (["fit", "--config", "lr: 0.1"], "--config: no option --lr: did you mean --model.learning_rate?"),
        (["fit", "--config", "data: {bs: 8}"], "--config: no option --data.bs: did you mean --data.batch_size?"),
        (["fit", "--config", "model: {hlp: 1}"], "--config: no option --model.hlp: fit --help-all lists them"),
        (["fit", "--verbose", "false"], "--verbose goes with validate --ckpt_path FILE"),
        (["fit", "--images", "x"], "--images goes with predict"),
        (["test", "--wandb_checkpoints"], "--wandb_checkpoints goes with fit --wandb"),
        (["repeat", "--n_trials", "3"], "--n_trials goes with sweep"),
        (["repeat", "--compare", "a", "b", "--n", "3"], "--compare takes two files and no other option, got --n"),
        (["repeat", "--compare", "a", "b", "c"], "--compare takes two files and no other option, got c"),
        (["serve", "--images", "x"], "serve: unrecognized arguments: --images x; it goes with predict"),
        (
            ["predict", "--ckpt_path", "pretrained", "--output", "x"],
            "--output goes with predict --images PATH; the directory of a run is --run_dir",
        ),
        (["predict", "--explain=x"], "--explain goes with predict --images PATH"),
        (["predict", "--image", "x"], "no option --image: did you mean --images?"),
        (
            ["predict", "--images", "x", "--bs", "3"],
            "predict: unrecognized arguments: --bs 3; did you mean --batch_size?",
        ),
        (
            ["predict", "x.jpg"],
            "predict needs a trained model: name a run directory or a file by --ckpt_path; "
            "to classify your images, name them by --images",
        ),
        (["test"], "test needs a trained model: name a run directory or a file by --ckpt_path"),
    ],
)
def test_typing_error_gives_a_hint(args, message, run_without_torch):
    assert run_without_torch(*args) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("subcommand", ["fit", "predict"])
def test_every_option_of_the_parser_passes_the_check(subcommand, capsys):
    assert main([subcommand, "--help-all"]) == 0
    flags = re.findall(r"^ +(?:-\w, )?(--[\w.+]+)", capsys.readouterr().out, re.MULTILINE)
    assert len(flags) > 50
    for flag in flags:
        check_option(flag)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "status", "err"),
    [
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("> /dev/full", 1, "error: the output cannot be written: No space left on device\n"),
    ],
)
def test_output_that_is_closed_or_full_is_no_traceback(redirection, status, err):
    shell = f"{sys.executable} -m lightning_cifar --version {redirection}; echo $? >&3"
    done = subprocess.run(["bash", "-c", f"exec 3>&1; {shell}"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{status}\n", err)


@pytest.mark.slow
def test_training_needs_no_standard_streams(tiny, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.slow
def test_working_directory_that_was_deleted_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["fit", "--recipe", "demo"]) == 2
    assert capsys.readouterr().err == "error: the working directory was deleted: change to one that exists\n"
