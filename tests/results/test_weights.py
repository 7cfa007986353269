"""Weights in a safetensors file: the same classifier, in Python and on the command line, and damaged files."""

import json

import pytest
import torch
from safetensors import safe_open

from lightning_cifar import ImageClassifier, load_pretrained, main
from lightning_cifar.results.weights import save_weights


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The model of a short run, and the file made of it."""
    model = ImageClassifier.load_from_checkpoint(trained / "checkpoints/last.ckpt").eval()
    file = tmp_path_factory.mktemp("exported") / "model.safetensors"
    save_weights(model, file, held_out="val", recipe="demo")
    return model, file


def test_classifies_like_the_model(exported):
    model, file = exported
    images = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = load_pretrained(file)(images), model(images)
    assert (ours - theirs).abs().max() < 5e-3 * theirs.abs().max()  # half precision keeps 11 bits
    assert load_pretrained(file).hparams == model.hparams


def test_says_what_is_known(exported):
    with safe_open(exported[1], "pt") as opened:
        assert json.loads(opened.metadata()["known"]) == {"held_out": "val", "recipe": "demo"}


def test_by_the_command_line(exported, trained, tmp_path):
    accuracies = []
    for number, checkpoint in enumerate([exported[1], trained / "checkpoints/last.ckpt"]):
        data = ["--data.dataset", "digits", "--run_dir", str(tmp_path / str(number))]
        assert main(["test", "--ckpt_path", str(checkpoint), *data]) == 0
        accuracies.append(json.loads((tmp_path / str(number) / "test.json").read_text())["accuracy"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)


def test_fit_does_not_go_on_from_it(exported, tmp_path, capsys):
    assert main(["fit", "--ckpt_path", str(exported[1]), "--run_dir", str(tmp_path / "run")]) == 2
    message = f"error: --ckpt_path {exported[1]}: weights alone; fit goes on from its own checkpoints\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_damaged(exported, tmp_path, capsys, damage):
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(damage(exported[1].read_bytes()))
    assert main(["test", "--ckpt_path", str(file), "--data.dataset", "digits"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file} is damaged or holds no weights of this package (")
