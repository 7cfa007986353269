"""Configurations from other versions and other people: missing options, hostile YAML, files that are none."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from lightning_cifar import main
from lightning_cifar.run import job
from lightning_cifar.run.settings import from_checkpoint
from lightning_cifar.run.settings.precedence import layer_series, name_settings
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
HOSTILE = {
    "nested anchors": LAUGHS,
    "a list that holds itself": "trainer: &a\n  callbacks: [*a]\n",
    "a number of 100,000 digits": "seed_everything: " + "9" * 100_000,
    "deep nesting": "trainer: " + "[" * 5_000,
    "a tab": "trainer:\n\tmax_epochs: 1\n",
    "an open quote": "trainer: {max_epochs: '1}\n",
    "an empty file": "",
    "a comment": "# nothing\n",
    "a list": "- trainer\n",
    "a word": "trainer",
    "an object": "model: !!python/object:os.system {}\n",
    "a list as a name": "model: {[1]: 2}\n",
    "a day that does not exist": "seed_everything: 2020-99-99\n",
    "a list of recipes": "recipe: [demo]\n",
    "a number as a path": "init_from: 3\n",
    "a group without options": "trainer:\nmodel: {pool: max}\n",
    "null for a group": "data: null\n",
}


@pytest.mark.parametrize(
    ("group", "name", "default"),
    [
        ("model", "label_smoothing", "0.0"),
        ("model", "optimizer", "adam"),
        ("model", "network", "five_block"),
        ("data", "batch_size", "512"),
        ("trainer", "num_nodes", "1"),
        ("trainer", "accelerator", "auto"),
    ],
)
def test_null_for_an_option_that_needs_a_value_is_one_line(tmp_path, capsys, group, name, default):
    (tmp_path / "a.yaml").write_text(f"{group}: {{{name}: null}}\n")
    args = ["--recipe", "demo", "--config", str(tmp_path / "a.yaml"), "--run_dir", str(tmp_path / "run")]
    assert main(["fit", *args]) == 2
    line = f"error: --{group}.{name} null: set a value, or leave it out for the default, {default}\n"
    assert capsys.readouterr().err == line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "deep nesting" else []) for name in HOSTILE]
)
def test_configuration_that_cannot_be_used_is_one_line(tmp_path, capsys, name):
    (tmp_path / "run").mkdir()
    file = tmp_path / "run/config.yaml"
    file.write_text(HOSTILE[name])
    for args in (["--config", str(file)], ["--resume", str(tmp_path / "run")]):
        assert main(["fit", *args]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert len(line) < 300
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fit:\n  model:\n    dropout: 0.1\n", "write the settings without the command, fit"),
        ("data:\n  class_path: X\n", "write the options below data, without class_path and init_args"),
        ("val_size: 10\n", "no option --val_size: did you mean --data.val_size?"),
        ("model:\n  lr: 0.1\n", "no option --model.lr: did you mean --model.learning_rate?"),
        ("data:\n  small_epochs: 0\n", "no option --data.small_epochs: did you mean --data.sizes?"),
        ("trainer:\n  max_epoch: 1\n", "no option --trainer.max_epoch: did you mean --trainer.max_epochs?"),
        ("optimizer:\n  class_path: torch.optim.Adam\n", "no option --optimizer: did you mean --model.optimizer?"),
        ("resume: runs/x\n", "resume goes on the command line: fit --resume RUN_DIR"),
        ("n: 3\n", "n goes on the command line, with repeat"),
        ("images: x\n", "images goes on the command line, with predict"),
        ("model: 3\n", "model must hold options, got 3"),
        ("corruptions: true\n", "--corruptions goes with test --ckpt_path FILE"),
        ("near_duplicates: x.csv\n", "--near_duplicates goes with test --ckpt_path FILE"),
        ("verbose: true\n", "--verbose goes with validate --ckpt_path FILE"),
    ],
)
def test_option_that_does_not_exist_is_named_with_the_file(tmp_path, capsys, text, words):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    for command in ("fit", "repeat", "sweep"):
        assert main([command, "--recipe", "demo", "--config", str(file)]) == 2
        assert capsys.readouterr().err == f"error: --config {file}: {words}\n"
    assert main(["fit", "--config", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err == f"error: --config {tmp_path / 'none.yaml'}: no such file\n"


def test_defaults_of_other_commands_may_stand_in_a_configuration(tmp_path, capsys):
    """``--print_config`` of every command writes them."""
    file = tmp_path / "c.yaml"
    file.write_text("corruptions: false\nnear_duplicates: null\nwandb_checkpoints: false\nresume: null\n")
    assert main(["fit", "--recipe", "demo", "--config", str(file), "--print_config"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("model: {mixup: 0.1}\ndata: {flip: true}\nmodel: {cutmix: 1.0}\n", "model", 3),
        ("model:\n  mixup: 0.1\n  mixup: 0.2\n", "mixup", 3),
        ("model: {network_args: {width: 8, width: 9}}\n", "width", 1),
    ],
)
def test_a_key_that_is_there_twice_is_named(tmp_path, capsys, text, key, line):
    """PyYAML keeps the last value, so that the run would be another one than the file says."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    for command in ("fit", "repeat", "sweep"):
        assert main([command, "--config", str(file)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --config {file}, line {line}: no valid YAML ({key} is also in line")
        assert len(error.splitlines()) == 1


def test_keys_may_be_merged(capsys):
    Path("c.yaml").write_text("data: &one {val_size: 30}\n'trainer': {max_epochs: 1}\n")
    Path("d.yaml").write_text("data:\n  <<: {val_size: 30}\n  <<: {flip: false}\n  batch_size: 16\n")
    for file in ("c.yaml", "d.yaml"):
        assert main(["fit", "--recipe", "demo", "--config", file, "--print_config"]) == 0
        assert "val_size: 30" in capsys.readouterr().out


def test_a_group_is_a_file_and_no_value(capsys):
    assert main(["fit", "--model", "resnet18"]) == 2
    words = "--model names a file of settings; to set one option write --model.NAME VALUE"
    assert capsys.readouterr().err == f"error: {words}\n"


@pytest.mark.parametrize("inline", [True, False])
def test_recipe_of_a_configuration_has_its_settings(capsys, inline):
    text = "recipe: demo\nmodel:\n  dropout: 0.25\n" + "# a text that is no path\n" * 20
    Path("c.yaml").write_text(text)
    assert main(["fit", "--config", text if inline else "c.yaml", "--print_config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["recipe"], settings["data"]["dataset"], settings["model"]["dropout"]) == ("demo", "digits", 0.25)


def test_configuration_that_is_no_regular_file_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        assert main(["fit", "--config", str(path)]) == 2
        assert f"{path} is not a file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("group", ["model", "data", "trainer"])
def test_option_that_an_older_version_did_not_have_has_its_default(trained, tmp_path, capsys, group):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    settings = yaml.safe_load((run_dir / "config.yaml").read_text())
    option, other = {"model": ("tta", "mirror"), "data": ("cutout", "4"), "trainer": ("min_epochs", "1")}[group]
    del settings[group][option]
    (run_dir / "config.yaml").write_text(yaml.safe_dump(settings))
    changed = main(["fit", "--resume", str(run_dir), f"--{group}.{option}", other])
    words = f"--{group}.{option} {other}"
    assert (changed, words in "".join(capsys.readouterr())) == (0 if group == "trainer" else 2, True)
    if group != "trainer":
        assert main(["fit", "--resume", str(run_dir)]) == 0
        assert "changed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hook", "function"),
    [
        ("on_fit_start", "lightning.fabric.utilities.cloud_io._load"),
        ("on_exception", "lightning_cifar.main"),
        ("setup", "lightning_cifar.files.write_whole"),
    ],
)
def test_configuration_calls_no_function_without_trust(tmp_path, capsys, hook, function):
    callback = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {hook: function}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    args = ["fit", "--recipe", "demo", "--config", str(tmp_path / "c.yaml")]
    assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--trust_config lightning" in line
    assert main([*args, "--trust_config", function.split(".")[0], "--print_config"]) == 0


def test_of_several_configurations_the_last_recipe_counts(tmp_path, capsys):
    files = [tmp_path / f"{recipe}.yaml" for recipe in ("report", "demo")]
    for file in files:
        file.write_text(f"recipe: {file.stem}\n")
    assert main(["fit", *(word for file in files for word in ("--config", str(file))), "--print_config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["recipe"], settings["data"]["dataset"]) == ("demo", "digits")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("report", 30, 256)),
        (["--init_from", "pretrained"], ("finetune", 15, 32)),
        (["--recipe", "demo"], ("demo", 6, 64)),
    ],
)
def test_a_few_settings_change_the_usual_recipe(capsys, options, expected):
    Path("mine.yaml").write_text("data: {dataset: digits}\n")
    assert main(["fit", *options, "--config", "mine.yaml", "--print_config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["data"]["dataset"] == "digits"
    assert (settings["recipe"], settings["trainer"]["max_epochs"], settings["data"]["batch_size"]) == expected
    assert name_settings(layer_series("repeat", [*options, "--config", "mine.yaml"], "seed")) == expected[0]


@pytest.mark.slow
def test_configuration_names_a_run_to_train_on(trained, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(
        f"recipe: demo\nckpt_path: {trained}\n"
        "trainer: {max_epochs: 2, limit_train_batches: 2, limit_val_batches: 1, log_every_n_steps: 2}\n"
    )
    config = ["--config", str(tmp_path / "c.yaml")]
    assert main(["fit", *config, "--run_dir", "run"]) == 0
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 4
    for command in ("repeat", "sweep"):
        assert main([command, *config, "--run_dir", "series"]) == 2
        assert f"ckpt_path in a configuration: {command} trains every" in capsys.readouterr().err
        assert not Path("series").exists()


@pytest.mark.slow
def test_option_of_a_configuration_without_effect_gets_a_line(tiny, capsys):
    Path("mine.yaml").write_text("model: {warmup: 0.3}\n")
    assert main(["fit", *tiny, "--config", "mine.yaml", "--run_dir", "run"]) == 0
    assert "note: --model.warmup has no effect: the schedule is constant" in capsys.readouterr().out
    assert main(["fit", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    assert "note: " not in capsys.readouterr().out  # that holds every option


FLOW = "{" + ", ".join(LAUGHS.splitlines()) + "}"  # of less characters than a value may have


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--model", LAUGHS),
        ("--trainer.callbacks", LAUGHS),
        ("--config", "model: bomb.yaml\n"),
        ("--config", yaml.safe_dump({"trainer": {"callbacks": FLOW}})),
        ("--config", yaml.safe_dump({"model": {"network_args": "[" * 3_900}})),
    ],
    ids=["file of a group", "file of an option", "file in a configuration", "value", "deep value"],
)
def test_text_that_an_option_or_a_configuration_names_is_limited(tmp_path, capsys, option, text):
    (tmp_path / "bomb.yaml").write_text(LAUGHS)
    (tmp_path / "c.yaml").write_text(text)
    assert main(["fit", "--recipe", "demo", option, "c.yaml", "--print_config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 300


@pytest.mark.slow
def test_very_many_classes_are_left_out_of_settings(tiny, monkeypatch, capsys):
    """Their parsing would take minutes; here more than five are many. A run on them is resumed and tested as any."""
    monkeypatch.setattr(from_checkpoint, "MOST_NAMES", 5)
    monkeypatch.setattr(job, "MOST_NAMES", 5)
    assert main(["fit", *tiny, "--run_dir", "run"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["class_names"] is None
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "2"]) == 0
    assert main(["test", "--ckpt_path", "run", "--run_dir", "test"]) == 0
    file = Path("run/checkpoints/last.ckpt")
    content = load_checkpoint(file)
    assert len(content["hyper_parameters"]["class_names"]) == 10
    content["hyper_parameters"]["class_names"][3] = "three"
    save_checkpoint(content, file)
    assert main(["test", "--ckpt_path", str(file)]) == 2
    remedy = "name the data of its training by --data.root, or another checkpoint"
    assert capsys.readouterr().err == (
        f"error: --ckpt_path {file} knows the class three where the data has 3: {remedy}\n"
    )
