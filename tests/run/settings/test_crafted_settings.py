"""Settings from strangers, in a checkpoint or a configuration: no option calls a function that they name."""

import json
from pathlib import Path

import pytest
import torch

from lightning_cifar import InputError, load_pretrained, main
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint

LOAD = "lightning.fabric.utilities.cloud_io._load"  # a function of a package that configurations may import from
OPTIONS = {
    "model.network": lambda call: call,
    "model.network_args": lambda call: call,
    "model.optimizer_args": lambda call: {"x": call},
    "model.class_names": lambda call: [call],
    "data.transform": lambda call: call,
    "data.sizes": lambda call: [call],
}


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


@pytest.fixture
def call(tmp_path):
    torch.save(Harm(), tmp_path / "evil.pt")
    return {"class_path": LOAD, "init_args": {"path_or_url": str(tmp_path / "evil.pt"), "weights_only": False}}


def assert_refused(status, capsys):
    err = capsys.readouterr().err
    assert (status, len(err.splitlines())) == (2, 1), err
    assert not Path("harmed").exists()


def test_the_payload_works(call):
    torch.load(call["init_args"]["path_or_url"], weights_only=False)
    assert Path("harmed").exists()


@pytest.mark.parametrize("option", OPTIONS)
def test_a_configuration_calls_nothing(option, call, tiny, capsys):
    group, name = option.split(".")
    config = json.dumps({group: {name: OPTIONS[option](call)}})
    assert_refused(main(["fit", *tiny, "--config", config, "--run_dir", "run"]), capsys)
    assert not Path("run").exists()


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("command", ["test", "fit"])
def test_a_checkpoint_calls_nothing(option, command, call, trained, tiny, capsys):
    content = load_checkpoint(trained / "checkpoints/last.ckpt")
    group, name = option.split(".")
    where = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}[group]
    content[where][name] = OPTIONS[option](call)
    save_checkpoint(content, Path("crafted.ckpt"))
    extra = tiny if command == "fit" else []
    assert_refused(main([command, *extra, "--ckpt_path", "crafted.ckpt", "--run_dir", "run"]), capsys)


@pytest.mark.parametrize(
    "callback",
    [
        {"class_path": LOAD},
        {"class_path": "lightning.pytorch.callbacks.RichProgressBar", "init_args": {"console_kwargs": {"x": None}}},
    ],
    ids=["instead of a class", "below an argument"],
)
@pytest.mark.parametrize("trust", [{}, {"trust_config": "lightning"}], ids=["", "that trusts itself"])
def test_a_callback_of_a_configuration_calls_nothing(callback, trust, call, tiny, capsys):
    if "init_args" in callback:
        callback["init_args"]["console_kwargs"]["x"] = call
    else:
        callback = call
    config = json.dumps({"trainer": {"callbacks": [callback]}, **trust})
    assert_refused(main(["fit", *tiny, "--config", config, "--run_dir", "run"]), capsys)


@pytest.mark.slow
def test_python_calls_no_function_of_a_checkpoint(trained):
    content = load_checkpoint(trained / "checkpoints/last.ckpt")
    content["hyper_parameters"]["network"] = torch._utils._rebuild_parameter  # which weights_only lets through
    torch.save(content, "crafted.ckpt")
    with pytest.raises(InputError, match="no model of this package"):
        load_pretrained(Path("crafted.ckpt"))
    assert load_pretrained().hparams.get("network", "five_block") == "five_block"
