"""Which line of whose code an error is said to come from."""

import json
import sys
from pathlib import Path

import pytest

import lightning_cifar
from lightning_cifar.errors import reason
from lightning_cifar.run.process.exit_status import locate

PACKAGE = Path(lightning_cifar.__file__).parent


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("/home/me/mine.py", " (mine.py, line 2)"),
        (f"{sys.prefix}-of-mine/mine.py", " (mine.py, line 2)"),
        (f"{PACKAGE}_of_mine.py", f" ({PACKAGE.name}_of_mine.py, line 2)"),
        ("/usr/src/app/mine.py", " (mine.py, line 2)"),
        ("/home/me/.local/lib/python3.12/site-packages/torch/nn/functional.py", ""),
        ("/usr/lib/python3/dist-packages/torch/nn/functional.py", ""),
        (json.__file__, ""),
        (f"{PACKAGE}/model/named.py", ""),
        ("<string>", ""),
    ],
)
def test_only_code_of_the_user_is_named(file, found):
    with pytest.raises(ZeroDivisionError) as raised:
        exec(compile("\n1 / 0", file, "exec"))
    error = raised.value
    error.__traceback__ = error.__traceback__.tb_next  # without this test
    assert locate(error) == found


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", "RuntimeError"),
        ("one\ntwo", "one"),
        ("one:", "one:"),
        ("one:\n\t two three\nfour", "one: two three"),
        ("one:\n" + "keys " * 1000, f"one: {'keys ' * 23}..."),  # as torch names all weights that a file lacks
    ],
)
def test_a_reason_is_a_line_of_bounded_length(message, words):
    assert reason(RuntimeError(message)) == words
