"""Search spaces of `sweep`: parsed, drawn from, and their values without a search."""

import optuna
import pytest

from lightning_cifar.commands.sweep.space import (
    contains,
    draw_values,
    format_options,
    make_default_space,
    parse_distribution,
    read_values,
)
from lightning_cifar.commands.sweep.study import make_record
from lightning_cifar.run.settings.options import RECIPES


def test_values_are_drawn_from_the_space():
    space = {
        "a": parse_distribution("0:0.5"),
        "b": parse_distribution("log:1e-4:1e-2"),
        "c": parse_distribution("2:8"),
        "d": parse_distribution("adam,sgd"),
    }
    values = draw_values(optuna.create_study().ask(), space)
    assert 0 <= values["a"] <= 0.5
    assert 1e-4 <= values["b"] <= 1e-2
    assert isinstance(values["c"], int)
    assert values["d"] in ("adam", "sgd")
    assert format_options({"a": 0.1235, "c": 3, "d": "sgd"}) == ["--a", "0.1235", "--c", "3", "--d", "sgd"]


def test_values_of_a_list_are_trained_as_they_are():
    """Those of a range have four digits, within the range."""
    names = {"a": "0.123456,0.5", "b": "0:0.5", "c": "0.1:0.123456"}
    study = optuna.create_study()
    study.enqueue_trial(dict.fromkeys(names, 0.123456))
    values = draw_values(study.ask(), {name: parse_distribution(text) for name, text in names.items()})
    assert format_options(values) == ["--a", "0.123456", "--b", "0.1235", "--c", "0.123456"]
    assert make_record(study.trials[0])["values"] == values


@pytest.mark.parametrize(
    ("name", "values", "choices", "known"),
    [
        ("model.network", "five_block,mine:build", ("five_block", "mine:build"), "five_block"),
        ("model.widths", "[4,4,8,8,8],[2,2,2,2,2]", ("[4,4,8,8,8]", "[2,2,2,2,2]"), "[4,4,8,8,8]"),
        ("model.network_args", 'null,{"a":1,"b":2}', ("null", '{"a":1,"b":2}'), "null"),
        ("data.flip", "false,true", ("false", "true"), "false"),
        ("model.gate", "softmax,relu", ("softmax", "relu"), "relu"),
        ("model.weight_decay", "0.0001,0.1", (0.0001, 0.1), 0.0001),
    ],
)
def test_lists_hold_any_value_and_begin_with_the_recipe(name, values, choices, known):
    assert parse_distribution(values).choices == choices
    recipe = ["--config", str(RECIPES["demo"]), "--config", '{"model": {"widths": [4, 4, 8, 8, 8]}}']
    assert read_values(["fit", *recipe], [name]) == {name: known}


def test_values_of_a_configuration_that_is_no_file_are_known(tmp_path):
    """As `fit` accepts it."""
    (tmp_path / "mine.yaml").write_text("model: {learning_rate: 0.25}\n")
    for config, known in (("model: {learning_rate: 0.5}", 0.5), (str(tmp_path / "mine.yaml"), 0.25)):
        assert read_values(["fit", "--config", config], ["model.learning_rate"]) == {"model.learning_rate": known}


def test_a_fraction_is_in_no_range_of_whole_numbers():
    for values, inside in (("0:1", False), ("0.0:1.0", True), ("0.2,1", True)):
        assert contains(parse_distribution(values), 0.2) == inside


def test_the_default_space_has_learning_rate_and_batch_size():
    space = make_default_space({"model.learning_rate": 0.1, "data.batch_size": 64}, [])
    assert space["model.learning_rate"].log
    assert (space["model.learning_rate"].low, space["model.learning_rate"].high) == pytest.approx((0.01, 1))
    assert space["data.batch_size"].choices == (32, 64, 128)
    given = make_default_space({"model.learning_rate": 0.1, "data.batch_size": 64}, ["data.batch_size"])
    assert [*given] == ["model.learning_rate"]
