"""What the options of a run are called, and what ``--ckpt_path`` may name: known to all rooms, without torch."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PRETRAINED_NAME = "pretrained"  # for --ckpt_path: the model in this package
WEIGHTS = ".safetensors"  # weights alone; every other checkpoint is Lightning's
# Where the signatures stand that the options of a group are made from: package, file, class.
SIGNATURES = {
    "trainer": [("lightning", "pytorch/trainer/trainer.py", "Trainer")],
    "model": [
        ("lightning_cifar", "train/classifier.py", "ImageClassifier"),
        ("lightning_cifar", "model/network.py", "FiveBlockNet"),
    ],
    "data": [("lightning_cifar", "data/module.py", "CIFAR10DataModule")],
}


def parameters(group: str) -> list[str]:
    """Names of the parameters that make the options of a group of `SIGNATURES`, read from the source."""
    names = []
    for package, file, class_name in SIGNATURES[group]:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.walk(ast.parse((Path(spec.origin).parent / file).read_text())):
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                (init,) = (part for part in node.body if getattr(part, "name", "") == "__init__")
                assert isinstance(init, ast.FunctionDef)
                names += [argument.arg for argument in (*init.args.args[1:], *init.args.kwonlyargs)]
    return list(dict.fromkeys(names))  # two classes may share one


def differences(settings: dict[str, Any], stored: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every option of a group that has another value in ``stored``: its name, as ``data.root``, and both values."""
    for group in SIGNATURES:
        for name, value in settings[group].items():
            if value != (other := stored[group].get(name)):
                yield f"{group}.{name}", value, other
