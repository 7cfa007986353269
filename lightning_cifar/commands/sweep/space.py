"""What ``sweep`` searches: parameters of a run by name, each with a range or a list of values."""

import math
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lightning_cifar.errors import InputError, reason
from lightning_cifar.options import SIGNATURES, check_option, values_of

Space = dict[str, BaseDistribution]
FORMS = "NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=A,B,C"
# What decides which images trials are trained on and judged by: with others, they could not be compared.
FIXED = {
    *(f"data.{name}" for name in ("dataset", "root", "url", "archive", "in_memory")),
    *(f"data.{name}" for name in ("held_out", "val_size", "split_seed")),
    "trainer.limit_val_batches",
}


def space_of(searches: Sequence[str]) -> Space:
    """The space that ``--search`` options give.

    Raises:
        InputError: one of them cannot be read, or names what cannot be searched.
    """
    space: Space = {}
    for text in searches:
        name, equals, values = text.partition("=")
        if not equals or name.split(".")[0] not in SIGNATURES or "." not in name:
            raise InputError(f"--search {text}: write {FORMS}, with a name as model.learning_rate")
        check_option(f"--{name}")
        if name in FIXED:
            raise InputError(f"--search {text}: trials that differ in {name} could not be compared")
        if name in space:
            raise InputError(f"--search {text}: {name} is there twice")
        try:
            space[name] = distribution(values)
        except ValueError as error:
            raise InputError(f"--search {text}: {error}") from None
    return space


def distribution(values: str) -> BaseDistribution:
    """``0:0.5``, ``log:1e-4:1e-2``, ``2:8`` (whole numbers), ``128,256`` or ``adam,sgd``.

    Raises:
        ValueError: it is none of these.
    """
    if ":" not in values:
        choices = [value_of(choice) for choice in values.split(",")]
        if len({*choices}) < max(2, len(choices)) or "" in choices:
            raise ValueError("a list takes two values at least, each once")
        return CategoricalDistribution(choices)
    log = values.startswith("log:")
    ends = [end for text in values.removeprefix("log:").split(":") if not isinstance(end := value_of(text), str)]
    if len(ends) != 2 or values.removeprefix("log:").count(":") != 1 or not all(map(math.isfinite, ends)):
        raise ValueError("a range is two numbers, LOW:HIGH or log:LOW:HIGH")
    low, high = ends
    if not low < high:
        raise ValueError(f"LOW must be below HIGH, got {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range starts above 0, got {low}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def value_of(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def described(searched: BaseDistribution) -> str:
    """``0.0001 to 0.01, logarithmic``, ``2 to 8, whole numbers`` or ``128, 256``."""
    if isinstance(searched, CategoricalDistribution):
        return ", ".join(map(str, searched.choices))
    assert isinstance(searched, IntDistribution | FloatDistribution)
    words = ["whole numbers"] if isinstance(searched, IntDistribution) else []
    words += ["logarithmic"] if searched.log else []
    return ", ".join([f"{searched.low} to {searched.high}", *words])


def holds(searched: BaseDistribution, value: Any) -> bool:
    if isinstance(searched, CategoricalDistribution):
        return value in searched.choices
    assert isinstance(searched, IntDistribution | FloatDistribution)
    return isinstance(value, int | float) and searched.low <= value <= searched.high


def drawn(trial: Trial, space: Space) -> dict[str, Any]:
    """A trial's values, as Optuna's sampler draws them."""
    for name, searched in space.items():
        if isinstance(searched, CategoricalDistribution):
            trial.suggest_categorical(name, searched.choices)
        elif isinstance(searched, IntDistribution):
            trial.suggest_int(name, searched.low, searched.high, log=searched.log)
        elif isinstance(searched, FloatDistribution):
            trial.suggest_float(name, searched.low, searched.high, log=searched.log)
    return trial.params


def typed(values: dict[str, Any]) -> list[str]:
    """The options that give a run these values; numbers to four digits, so that what was trained is what is typed."""
    options = []
    for name, value in values.items():
        options += [f"--{name}", f"{value:.4g}" if isinstance(value, float) else str(value)]
    return options


def own_values(fit: list[str], names: Sequence[str]) -> dict[str, Any]:
    """What a run has for these parameters without a search, of those that are known before it is set up.

    Args:
        fit: what `layer` gives for ``fit``.
        names: as ``model.learning_rate``.

    Raises:
        InputError: a configuration cannot be read.
    """
    from lightning_cifar.data.module import CIFAR10DataModule  # here, for typos do not wait for torch
    from lightning_cifar.train.classifier import ImageClassifier

    own: dict[str, Any] = {}
    for group, kind in (("model", ImageClassifier), ("data", CIFAR10DataModule)):
        own |= {f"{group}.{name}": parameter.default for name, parameter in signature(kind).parameters.items()}
    for file in values_of(fit, "--config", "-c"):
        try:
            config = yaml.safe_load(Path(file).read_text())
            for group in {*SIGNATURES} & {*config}:
                own |= {f"{group}.{name}": value_of(str(value)) for name, value in config[group].items()}
        except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
            raise InputError(f"--config {file} cannot be read: {reason(error)}") from error
    return {name: own[name] for name in names if name in own}


def default_space(own: dict[str, Any], fixed: Sequence[str]) -> Space:
    """Learning rate and batch size around those of the run: a factor of ten, and of two, to both sides.

    Args:
        own: of `own_values`.
        fixed: options that are given, and not searched.

    Raises:
        InputError: nothing is left.
    """
    rate, images = own["model.learning_rate"], own["data.batch_size"]
    for name, value, kinds in (("model.learning_rate", rate, (int, float)), ("data.batch_size", images, int)):
        if not isinstance(value, kinds) or value <= 0:
            raise InputError(f"--{name} must be above 0, got {value}")
    space: Space = {
        "model.learning_rate": FloatDistribution(rate / 10, rate * 10, log=True),
        "data.batch_size": CategoricalDistribution(sorted({max(1, images // 2), images, images * 2})),
    }
    space = {name: searched for name, searched in space.items() if name not in fixed}
    if not space:
        raise InputError("learning rate and batch size are given: say what to search by --search")
    return space
