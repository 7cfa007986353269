"""Help, version and typing errors do not import torch, which takes seconds."""

import os
import re
import signal
import subprocess
import sys
import time
import weakref

import pytest

from lightning_cifar import main
from lightning_cifar.run.options import RECIPES, SUBCOMMANDS, TRAINER_COMMANDS, check_option
from lightning_cifar.run.process import exit_on_sigterm

WITHOUT_TORCH = """
import sys
from lightning_cifar import main
status = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(status)
"""


def run_without_torch(*args):
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *args], capture_output=True, text=True)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_commands_and_recipes_on_one_screen(flag):
    done = run_without_torch(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in (*SUBCOMMANDS, *RECIPES))
    assert len(done.stdout.splitlines()) <= 30
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("subcommand", TRAINER_COMMANDS)
def test_help_of_a_command_has_every_option_on_one_screen(subcommand):
    done = run_without_torch(subcommand, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.replace(",", " ").split()
    assert {"--recipe", "--ckpt_path", "batch_size", "widths", "learning_rate", "max_epochs"} <= {*words}
    assert ("--images" in words) == (subcommand == "predict")
    assert len(done.stdout.splitlines()) <= 52
    assert max(map(len, done.stdout.splitlines())) <= 80


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
        time.sleep(5)
        assert watched
    assert stop.value.code == 143


def test_version_needs_no_torch():
    done = run_without_torch("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lightning-cifar ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], f"name a command: {', '.join(SUBCOMMANDS)}; --help lists what they do"),
        (["fti"], f"no command 'fti': did you mean fit? There are {', '.join(SUBCOMMANDS)}"),
        (
            ["fit", "--recipe", "fats"],
            f"no recipe 'fats': did you mean fast? There are {', '.join(RECIPES)}",
        ),
        (["fit", "--recip", "fast"], "no option --recip: did you mean --recipe?"),
        (["fit", "--model.width", "[1]"], "no option --model.width: did you mean --model.widths?"),
        (["fit", "--trainer.max_epoch=3"], "no option --trainer.max_epoch: did you mean --trainer.max_epochs?"),
        (["fit", "--data.xyzzy_plugh", "3"], "no option --data.xyzzy_plugh: fit --help-all lists them"),
        (["repeat", "--help-all"], "no option --help-all: did you mean --help?"),
        (["repeat", "--corruptions"], "--corruptions goes with test: test --ckpt_path FILE --corruptions"),
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
        (["sweep", "--trials=3"], "no option --trials=3: did you mean --n_trials?"),
        (["serve", "--prot", "3"], "serve: unrecognized arguments: --prot 3; did you mean --port?"),
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
def test_typing_error_gives_a_hint(args, message):
    done = run_without_torch(*args)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("subcommand", ["fit", "predict"])
def test_every_option_of_the_parser_passes_the_check(subcommand, capsys):
    assert main([subcommand, "--help-all"]) == 0
    flags = re.findall(r"^ +(?:-\w, )?(--[\w.+]+)", capsys.readouterr().out, re.MULTILINE)
    assert len(flags) > 50
    for flag in flags:
        check_option(flag)


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


def test_training_needs_no_standard_streams(tiny, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_working_directory_that_was_deleted_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["fit", "--recipe", "demo"]) == 2
    assert capsys.readouterr().err == "error: the working directory was deleted: change to one that exists\n"
