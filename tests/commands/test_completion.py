"""The script completes in a real bash what the parsers know."""

import shutil
import subprocess

import pytest

from lightning_cifar import main
from lightning_cifar.run.settings.options import SUBCOMMANDS


@pytest.fixture
def complete(capsys):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    assert main(["completion"]) == 0
    script = capsys.readouterr().out

    def completed(*words):
        line = " ".join(f"'{word}'" for word in words)
        ask = f"\nCOMP_WORDS=(lightning-cifar {line}) COMP_CWORD={len(words)}\n_lightning_cifar\n"
        ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return completed


def test_completes_commands_options_recipes_and_files(complete, tmp_path):
    assert complete("") == [*SUBCOMMANDS, "--help", "--version"]
    assert complete("fit", "--model.w") == ["--model.weight_decay", "--model.warmup", "--model.widths"]
    assert complete("fit", "--recipe", "fast") == ["fast", "fast94"]
    assert complete("predict", "--im") == ["--images"]
    assert complete("export", "--int") == ["--int8"]
    assert complete("sweep", "--se") == ["--search", "--seed_everything"]
    assert complete("fit", "--help") == ["--help", "--help-all"]
    assert complete("sweep", "--help") == ["--help"]
    (tmp_path / "mine.ckpt").touch()
    assert complete("test", "--ckpt_path", "mi") == ["mine.ckpt"]
    (tmp_path / "my run").mkdir()
    assert complete("test", "--ckpt_path", "my") == ["my run"]
