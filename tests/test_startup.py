"""Help, version and typos are answered without torch, whose import takes seconds."""

import re
import subprocess
import sys

import pytest

from lightning_cifar import main
from lightning_cifar.arguments import RECIPES, SUBCOMMANDS, TRAINER_COMMANDS, check_option

WITHOUT_TORCH = """
import sys
from lightning_cifar import main
status = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(status)
"""


def answered(*args):
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *args], capture_output=True, text=True)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_commands_and_recipes_on_one_screen(flag):
    done = answered(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in (*SUBCOMMANDS, *RECIPES))
    assert len(done.stdout.splitlines()) <= 24
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_version():
    done = answered("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lightning-cifar ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], f"name a command: {', '.join(SUBCOMMANDS)}; --help says more"),
        (["fti"], f"no command 'fti': did you mean fit? There are {', '.join(SUBCOMMANDS)}"),
        (
            ["fit", "--recipe", "fats"],
            f"no recipe 'fats': did you mean fast? There are {', '.join(RECIPES)}",
        ),
        (["fit", "--recip", "fast"], "no option --recip: did you mean --recipe?"),
        (["fit", "--model.width", "[1]"], "no option --model.width: did you mean --model.widths?"),
        (["fit", "--trainer.max_epoch=3"], "no option --trainer.max_epoch: did you mean --trainer.max_epochs?"),
        (["fit", "--data.xyzzy", "3"], "no option --data.xyzzy: --help lists them"),
        (["repeat", "--n", "two"], "repeat: argument --n: invalid int value: 'two'"),
        (["repeat", "--model.width", "[1]"], "no option --model.width: did you mean --model.widths?"),
        (["repeat", "--compare", "no.json", "no.json"], "--compare no.json: No such file or directory"),
        (["test"], "test needs a trained model: name one by --ckpt_path FILE"),
    ],
)
def test_typos(args, message):
    done = answered(*args)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("subcommand", TRAINER_COMMANDS)
def test_every_option_of_the_parser_is_known(subcommand, capsys):
    assert main([subcommand, "--help"]) == 0
    flags = re.findall(r"^ +(?:-\w, )?(--[\w.+]+)", capsys.readouterr().out, re.MULTILINE)
    assert len(flags) > 50
    for flag in flags:
        check_option(flag)
