"""Public names exist, and importing the package does not import torch."""

import subprocess
import sys

import pytest

import lightning_cifar


@pytest.mark.parametrize("name", lightning_cifar.__all__)
def test_public_names_exist(name):
    assert getattr(lightning_cifar, name).__name__ == name


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        lightning_cifar.nosuch  # noqa: B018


def test_import_does_not_import_torch():
    code = "import sys, lightning_cifar; print(lightning_cifar.__version__, 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed == f"{lightning_cifar.__version__} False\n"


@pytest.mark.slow
def test_fit_imports_wandb_and_scikit_learn_only_when_used():
    code = "import sys, lightning_cifar.commands.fit; print({'wandb', 'sklearn'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed == "set()\n"
