"""Search space of ``sweep``: options of a run by name, each with a range or a list of values."""

import json
import math
import re
from collections.abc import Sequence
from inspect import signature
from itertools import product
from typing import Any

import yaml
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from lightning_cifar.errors import InputError
from lightning_cifar.run.settings.configurations import check_config
from lightning_cifar.run.settings.options import SIGNATURES, check_option, values_of

Space = dict[str, BaseDistribution]
COMMA = re.compile(r",(?![^\[{]*[\]}])")  # between two values, not within one that is a list or a mapping
NO_RANGE = re.compile(r"\[[^\]]*\]|\{[^}]*\}|[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # values that may have a colon
SYNTAX = "NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=A,B,C"
# Options that decide which images trials are trained and validated on: trials that differ in them are not comparable.
FIXED = {
    *(f"data.{name}" for name in ("dataset", "root", "url", "archive", "in_memory", "labels", "classes")),
    *(f"data.{name}" for name in ("held_out", "val_size", "split_seed")),
    "trainer.limit_val_batches",
}


def parse_space(searches: Sequence[str]) -> Space:
    """Return the search space given by the values of ``--search``."""
    space: Space = {}
    for text in searches:
        name, equals, values = text.partition("=")
        if not equals or name.split(".")[0] not in SIGNATURES or "." not in name:
            raise InputError(f"--search {text}: write {SYNTAX}, with a name such as model.learning_rate")
        check_option(f"--{name}")
        if name in FIXED:
            raise InputError(f"--search {text}: trials that differ in {name} cannot be compared; search another option")
        if name in space:
            raise InputError(f"--search {text}: {name} is searched twice; remove one of them")
        try:
            space[name] = parse_distribution(values)
        except ValueError as error:
            raise InputError(f"--search {text}: {error}") from None
    return space


def parse_distribution(values: str) -> BaseDistribution:
    """Parse ``0:0.5``, ``log:1e-4:1e-2``, ``2:8`` (integers), ``128,256``, ``adam,mine:build`` or ``[20,32],[32]``.

    A ValueError says what is wrong with any other text.
    """
    if ":" not in NO_RANGE.sub("", values):
        choices = [parse_value(choice) for choice in COMMA.split(values)]
        if len({*choices}) < max(2, len(choices)) or "" in choices:
            raise ValueError("a list needs at least two values, all different")
        return CategoricalDistribution(choices)
    log = values.startswith("log:")
    ends = [end for text in values.removeprefix("log:").split(":") if not isinstance(end := parse_value(text), str)]
    if len(ends) != 2 or values.removeprefix("log:").count(":") != 1 or not all(map(math.isfinite, ends)):
        raise ValueError("a range is two finite numbers, LOW:HIGH or log:LOW:HIGH")
    low, high = ends
    if not low < high:
        raise ValueError(f"LOW must be below HIGH, got {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"LOW of a logarithmic range must be above 0, got {low}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def parse_value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def type_value(value: Any) -> int | float | str:
    """Return a setting as `parse_value` reads it where it is typed: ``true``, ``null``, ``[20,32]``."""
    return parse_value(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))


def describe_range(searched: BaseDistribution) -> str:
    """Return such as ``0.0001 to 0.01, logarithmic``, ``2 to 8, whole numbers`` or ``128, 256``."""
    if isinstance(searched, CategoricalDistribution):
        return ", ".join(map(str, searched.choices))
    assert isinstance(searched, IntDistribution | FloatDistribution)
    words = ["whole numbers"] if isinstance(searched, IntDistribution) else []
    words += ["logarithmic"] if searched.log else []
    return ", ".join([f"{searched.low} to {searched.high}", *words])


def list_combinations(space: Space, most: int) -> list[dict[str, Any]]:
    """Return all values that a trial may have; none if they are more than ``most``."""
    lists: list[Sequence[Any]] = []
    for searched in space.values():
        if isinstance(searched, FloatDistribution):
            return []
        if isinstance(searched, IntDistribution):
            lists.append(range(searched.low, searched.high + 1))
        elif isinstance(searched, CategoricalDistribution):
            lists.append(searched.choices)
    return [dict(zip(space, one, strict=True)) for one in product(*lists)] if math.prod(map(len, lists)) <= most else []


def contains(searched: BaseDistribution, value: Any) -> bool:
    """Return whether ``value`` is in a range or a list."""
    if isinstance(searched, CategoricalDistribution):
        return value in searched.choices
    assert isinstance(searched, IntDistribution | FloatDistribution)
    if not isinstance(value, int | float):
        return False
    whole = isinstance(searched, FloatDistribution) or value == round(value)
    return searched.low <= value <= searched.high and whole


def draw_values(trial: Trial, space: Space) -> dict[str, Any]:
    """Let Optuna's sampler draw the values of a trial, and return them as `round_values` does."""
    for name, searched in space.items():
        if isinstance(searched, CategoricalDistribution):
            trial.suggest_categorical(name, searched.choices)
        elif isinstance(searched, IntDistribution):
            trial.suggest_int(name, searched.low, searched.high, log=searched.log)
        elif isinstance(searched, FloatDistribution):
            trial.suggest_float(name, searched.low, searched.high, log=searched.log)
    return round_values(trial)


def round_values(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """Return the values of a trial. Those of a range have four digits, so that the printed values are those trained."""
    values = dict(trial.params)
    for name, searched in trial.distributions.items():
        if isinstance(searched, FloatDistribution):
            values[name] = min(max(float(f"{values[name]:.4g}"), searched.low), searched.high)
    return values


def format_options(values: dict[str, Any]) -> list[str]:
    """Return values as options."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def read_values(fit: list[str], names: Sequence[str]) -> dict[str, Any]:
    """Return the values that options have without a search, from configurations and from defaults.

    ``fit`` are the words that `layer` returns, ``names`` such as ``model.learning_rate``. Options without a value
    before the run is set up are left out.
    """
    from lightning_cifar.data.module import CIFAR10DataModule  # late: typing errors are reported before torch loads
    from lightning_cifar.model.network import FiveBlockNet
    from lightning_cifar.train.classifier import ImageClassifier

    known: dict[str, Any] = {}
    for group, kind in (("model", FiveBlockNet), ("model", ImageClassifier), ("data", CIFAR10DataModule)):
        known |= {f"{group}.{name}": parameter.default for name, parameter in signature(kind).parameters.items()}
    for file in values_of(fit, "--config", "-c"):
        config = yaml.safe_load(file) if file.startswith("{") else check_config(file)  # of a checkpoint, or the user's
        for group in {*SIGNATURES} & {*config}:
            if not isinstance(values := config[group] or {}, dict):  # another file
                raise InputError(f"--config {file}: write the options below {group}, for a sweep")
            known |= {f"{group}.{name}": value for name, value in values.items()}
    return {name: type_value(known[name]) for name in names if name in known}


def make_default_space(known: dict[str, Any], given: Sequence[str]) -> Space:
    """Return the default space: the learning rate times 0.1 to 10, and the batch size times 0.5, 1 and 2.

    ``known`` are their values without a search. Those in ``given`` are not searched: the user or the data choose them.
    """
    rate, images = known["model.learning_rate"], known["data.batch_size"]
    for name, value, kinds in (("model.learning_rate", rate, (int, float)), ("data.batch_size", images, int)):
        if not isinstance(value, kinds) or value <= 0:
            raise InputError(f"--{name} must be above 0, got {value}")
    space: Space = {
        "model.learning_rate": FloatDistribution(float(f"{rate / 10:.4g}"), rate * 10, log=True),
        "data.batch_size": CategoricalDistribution(sorted({max(1, images // 2), images, images * 2})),
    }
    space = {name: searched for name, searched in space.items() if name not in given}
    if not space:
        raise InputError("learning rate and batch size are not left to search: name the options by --search")
    return space
