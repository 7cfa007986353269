"""``fit --init_from``: training starts from the weights of another run and takes its network, but not its rates."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError, fine_tune, load_pretrained, main, trust
from lightning_cifar.files import compute_digest
from lightning_cifar.run.finetuning import name_last_layers, start_from
from lightning_cifar.run.weights import PRETRAINED, read_model, save_weights
from lightning_cifar.train.checkpoint import load_checkpoint

HEAD = {"network.classifier.5.weight", "network.classifier.5.bias"}
SHORT = ["--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1", "--trainer.precision", "32"]
ODD = """\
from torch import nn


class Odd(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(4, num_classes)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def build(num_classes):
    return Odd(num_classes)
"""


@pytest.fixture
def pets(image_folder):
    return ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.batch_size", "6"]


def read_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]


def list_changed(one: dict, other: dict) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.slow
def test_only_a_new_last_layer_is_trained_where_all_blocks_are_frozen(trained, pets, capsys):
    command = ["fit", "--init_from", str(trained), "--model.freeze", "5", *pets, *SHORT, "--run_dir", "run"]
    assert main([*command, "--model.schedule", "constant"]) == 0
    assert "the last layer is new, for 2 classes" in capsys.readouterr().out
    one, other = (load_checkpoint(run / "checkpoints/last.ckpt") for run in (trained, Path("run")))
    assert one["hyper_parameters"]["mean"] == other["hyper_parameters"]["mean"]  # as the weights expect
    before, after = one["state_dict"], other["state_dict"]
    before |= {name: after[name] for name in HEAD}  # of other shapes
    changed = list_changed(before, after)
    # The hidden layer, the mean of the images in `normalise` and nothing of batch norm: it is in evaluation mode.
    assert {name for name in changed if name.startswith("network")} == {
        "network.classifier.2.weight",
        "network.classifier.2.bias",
    }
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["init_from"] == str(trained)
    assert config["model"]["widths"] == [4, 4, 8, 8, 8]
    assert config["model"]["class_names"] == ["cat", "dog"]
    assert config["model"]["optimizer"] == "adamw"  # the recipe's


def test_the_same_classes_keep_the_last_layer(trained):
    hyper_parameters = load_checkpoint(trained / "checkpoints/last.ckpt")["hyper_parameters"]
    model = ImageClassifier(**hyper_parameters)
    assert list_changed(model.state_dict(), read_weights(trained))
    assert "new" not in start_from(model, read_model(trained / "checkpoints/last.ckpt"))
    assert not list_changed(model.state_dict(), read_weights(trained))


@pytest.mark.slow
def test_the_packaged_model_gets_a_new_last_layer():
    model, packaged = fine_tune(num_classes=10, learning_rate=1e-3), load_pretrained()
    assert model.training
    assert (model.hparams["learning_rate"], model.hparams["class_names"]) == (1e-3, None)
    changed = list_changed(model.state_dict(), packaged.state_dict())
    assert changed == {"network.classifier.3.weight"}
    assert fine_tune(num_classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_model_is_no_checkpoint_to_fine_tune():
    with pytest.raises(InputError, match="checkpoint must be a path or pretrained, got ImageClassifier"):
        fine_tune(load_pretrained())


@pytest.mark.parametrize(("name", "value"), [("activation", "relu"), ("pools", (True,) * 5), ("gate", "softmax")])
def test_options_of_another_network_are_refused(name, value):
    with pytest.raises(InputError, match=rf"{name} .*: the trained network has .*; leave it out"):
        fine_tune(**{name: value})
    known = load_pretrained().hparams
    fine_tune(pools=tuple(known["pools"]), gate=known["gate"])


def test_each_member_gets_a_new_last_layer(tmp_path):
    save_weights(
        ImageClassifier(2, members=2, widths=(4, 4, 8, 8, 8)).eval(),
        file := tmp_path / "two.safetensors",
        held_out=None,
    )
    changed = list_changed(fine_tune(file, 2).state_dict(), load_pretrained(file).state_dict())
    assert {name.rpartition(".classifier")[0] for name in changed} == {"network.members.0", "network.members.1"}


@pytest.mark.slow
def test_three_lines_of_python(trained, image_folder):
    data = CIFAR10DataModule("folder", root=image_folder, batch_size=6)
    model = fine_tune(trained, data.num_classes, freeze=2, optimizer="adamw")
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, data)
    changed = list_changed(
        read_weights(trained) | {name: model.state_dict()[name] for name in HEAD}, model.state_dict()
    )
    blocks = {name.split(".")[2] for name in changed if name.startswith("network.backbone")}
    assert blocks == {"2", "3", "4"}


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "end", "longer"), [("max_epochs", "1", "2"), ("max_steps", "4", "6")])
def test_resumes_without_the_first_weights(trained, pets, limit, end, longer):
    """To the bit, with the frozen blocks and their batch norm as before."""
    model = ImageClassifier.load_from_checkpoint(trained / "checkpoints/last.ckpt")
    save_weights(model, Path("first.safetensors"), held_out=None)
    start = [
        "fit",
        "--init_from",
        "first.safetensors",
        "--model.freeze",
        "2",
        *pets,
        *SHORT,
        "--model.schedule",
        "constant",
    ]
    assert main([*start, "--run_dir", "whole"]) == 0
    assert main([*start, f"--trainer.{limit}", end, "--run_dir", "parts"]) == 0  # an epoch has three steps
    Path("first.safetensors").unlink()
    assert main(["fit", "--resume", "parts", f"--trainer.{limit}", longer]) == 0
    assert not list_changed(read_weights(Path("whole")), read_weights(Path("parts")))


@pytest.mark.slow
def test_another_network_starts_from_its_own(pets):
    network = ["--recipe", "demo", "--model.network", "squeezenet1_1", "--trainer.limit_train_batches", "1"]
    assert main(["fit", *network, *SHORT, "--trainer.max_epochs", "1", "--run_dir", "first"]) == 0
    assert main(["fit", "--init_from", "first", "--model.freeze", "1", *pets, *SHORT, "--run_dir", "run"]) == 0
    before, after = read_weights(Path("first")), read_weights(Path("run"))
    last = {name: after[name] for name in ("network.classifier.1.weight", "network.classifier.1.bias")}  # a convolution
    changed = {name for name in list_changed(before | last, after) if name.startswith("network")}
    assert changed == set()  # all of `features` is one part


@pytest.mark.slow
def test_the_size_of_the_images_is_that_of_the_weights(pets):
    size = [*pets, "--data.image_size", "64", "--data.non_square", "letterbox", *SHORT]
    assert main(["fit", "--recipe", "demo", "--model.widths", "[4,4,8,8,8]", *size, "--run_dir", "first"]) == 0
    assert main(["fit", "--init_from", "first", *pets, *SHORT, "--run_dir", "run"]) == 0
    data = yaml.safe_load(Path("run/config.yaml").read_text())["data"]
    assert (data["image_size"], data["non_square"]) == (64, "letterbox")


@pytest.mark.slow
def test_every_seed_of_repeat_freezes_the_same_parts(trained, pets):
    freeze = ["--init_from", str(trained), "--model.freeze", "1"]
    assert main(["repeat", "--n", "2", *freeze, *pets, *SHORT, "--run_dir", "seeds"]) == 0
    before = read_weights(trained)
    for seed in (0, 1):
        after = read_weights(Path(f"seeds/seed{seed}"))
        changed = list_changed(before | {name: after[name] for name in HEAD}, after)
        assert {name.split(".")[2] for name in changed if name.startswith("network.backbone")} == {"1", "2", "3", "4"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["fit", "--init_from", "nowhere"], "--init_from nowhere: no such file"),
        (["fit", "--init_from", "images"], "it holds no checkpoints/best.ckpt"),
        (["fit", "--init_from", "note.ckpt"], "note.ckpt is damaged"),
        (["fit", "--init_from", "TRAINED", "--ckpt_path", "TRAINED"], "drop one"),
        (["test", "--init_from", "TRAINED"], "it goes with fit, not with test"),
        (["fit", "--resume", "TRAINED", "--init_from", "pretrained"], "--init_from does not go with --resume"),
        (["repeat", "--n", "1", "--init_from", "nowhere"], "--init_from nowhere: no such file"),
        (["fit", "--model.freeze", "1"], "needs trained weights: add --init_from pretrained"),
        (["fit", "--init_from", "TRAINED", "--model.freeze", "6"], "--model.freeze must be in [0, 5], got 6"),
        (["fit", "--init_from", "TRAINED", "--model.freeze=-1"], "--model.freeze must be in [0, 5], got -1"),
        (["fit", "--init_from", "TRAINED", "--model.widths", "[4,4,8,8,16]"], "--init_from has [4, 4, 8, 8, 8]"),
        (["fit", "--init_from", "TRAINED", "--model.network", "squeezenet1_1"], "--init_from has five_block"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options, line, trained, image_folder, capsys):
    Path("note.ckpt").write_text("no checkpoint")
    words = [str(trained) if word == "TRAINED" else word for word in options]
    data = ["--data.dataset", "folder", "--data.root", str(image_folder)]
    assert main([*words, *data, *(["--run_dir", "run"] if "--resume" not in words else [])]) == 2
    err = capsys.readouterr().err.splitlines()
    assert line in err[-1]
    assert len(err) == 1
    assert not Path("run").exists()


@pytest.mark.slow
def test_the_packaged_file_is_named_by_its_facts_and_digest(drawn_folder, capsys):
    """On drawn images: for noise, its gates are zero."""
    folder = ["--data.dataset", "folder", "--data.root", str(drawn_folder), "--data.batch_size", "6"]
    short = [*SHORT, "--trainer.limit_train_batches", "1"]
    assert main(["fit", "--init_from", "pretrained", *folder, *short, "--run_dir", "run"]) == 0
    assert "weights: recipe accurate" in capsys.readouterr().out
    for _ in range(2):
        start = json.loads(Path("run/run.json").read_text())["init_from"]
        assert start == {"file": "pretrained", "sha256": compute_digest(PRETRAINED)}
        assert main(["fit", "--resume", "run", "--trainer.max_epochs", "3"]) == 0


@pytest.mark.slow
def test_a_configuration_may_name_the_weights_and_flags_win_wherever_they_are_typed(trained, pets):
    Path("mine.yaml").write_text(f"{{init_from: {trained}, trainer: {{max_epochs: 5, log_every_n_steps: 1}}}}")
    flags = ["--model.freeze", "5", "--trainer.max_epochs", "1", "--run_dir", "run"]
    assert main(["fit", *pets, *flags, "--config", "mine.yaml"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (config["init_from"], config["trainer"]["max_epochs"]) == (str(trained), 1)
    assert config["model"]["widths"] == [4, 4, 8, 8, 8]


@pytest.mark.slow
def test_a_test_on_the_configuration_needs_no_first_weights(trained, pets, capsys):
    model = ImageClassifier.load_from_checkpoint(trained / "checkpoints/last.ckpt")
    save_weights(model, Path("first.safetensors"), held_out=None)
    assert main(["fit", "--init_from", "first.safetensors", *pets, *SHORT, "--run_dir", "run"]) == 0
    Path("first.safetensors").unlink()
    capsys.readouterr()
    assert main(["test", "--config", "run/config.yaml", "--ckpt_path", "run", "--run_dir", "test"]) == 0
    assert "weights" not in capsys.readouterr().out


def test_the_last_layer_is_the_one_of_the_classes_wherever_it_is_defined(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd.py").write_text(ODD)
    with trust("odd"):
        first = ImageClassifier(2, network="odd:build", class_names=["a", "b"])
        second = ImageClassifier(2, network="odd:build", class_names=["a", "c"])
        assert name_last_layers(second) == {"network.head.weight", "network.head.bias"}
        save_weights(first, Path("first.safetensors"), held_out=None)
        start_from(second, read_model(Path("first.safetensors")))
    assert list_changed(first.state_dict(), second.state_dict()) == {"network.head.weight", "network.head.bias"}


@pytest.mark.parametrize("freeze", [True, 2.0, "2", 6])
def test_freeze_is_a_number_of_blocks(freeze):
    with pytest.raises(InputError, match=r"freeze must be (a whole number|in \[0, 5\]), got"):
        fine_tune(num_classes=3, freeze=freeze)


@pytest.mark.slow
def test_new_weights_with_the_rates_of_finetune_get_a_line(pets, capsys):
    tiny = ["--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", "1"]
    assert main(["fit", "--recipe", "finetune", *pets, *tiny, "--run_dir", "run"]) == 0
    assert "add --init_from pretrained" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_card_names_the_first_weights(trained, pets):
    assert main(["fit", "--init_from", str(trained), *pets, *SHORT, "--run_dir", "run"]) == 0
    assert main(["export", "--ckpt_path", "run", "--output", "my.safetensors"]) == 0
    digest = compute_digest(trained / "checkpoints/best.ckpt")
    assert f"- fine-tuned from: `run, SHA-256 {digest}`" in Path("my.safetensors.md").read_text()
