"""The model card: facts of run and test, Wilson intervals, and missing facts."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image, ImageOps

from lightning_cifar import ImageClassifier, InputError
from lightning_cifar.commands.export.card import collect_facts, format_card, write_example
from lightning_cifar.data.square import Square
from lightning_cifar.evaluate.statistics import estimate_share_interval
from lightning_cifar.files import compute_digest, write_json
from lightning_cifar.run.weights import PRETRAINED, save_weights
from lightning_cifar.sources.images import read_image
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint

TEST = {
    "accuracy": 0.9184,
    "accuracy_without_tta": 0.9046,
    "images": 10_000,
    "loss": 0.31,
    "calibration_error": 0.0123,
    "temperature": 1.25,
}
FACTS = {"package": "lightning-cifar 0.1.0", "classes": ["cat", "dog"], "held_out": "val", "recipe": "fast", "seed": 3}
WHOLE = {**FACTS, **TEST, "data": "CIFAR-10 (JPEG)"}


def card(facts, form="onnx") -> tuple[dict, str]:
    text = format_card(facts, {"widths": (4, 8), "num_classes": 2}, "my.onnx", form, "same class on all")
    nothing, matter, body = text.split("---\n", 2)
    assert nothing == ""
    return yaml.safe_load(matter), body


def test_what_is_known_of_a_model_is_on_its_card():
    matter, body = card(WHOLE)
    (result,) = matter["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9046}]
    assert result["dataset"] == {"name": "CIFAR-10 (JPEG)", "type": "cifar10"}
    low, high = estimate_share_interval(0.9046, 10_000)
    assert f"- 90.46% on the test images, 95 % interval {low:.2%} to {high:.2%} (Wilson, 10,000 images)" in body
    assert "- 91.84% with the model's test-time augmentation, 95 % interval" in body
    assert "This file divides the logits by the temperature 1.250, fitted on held-out images." in body
    assert 'onnxruntime.InferenceSession("my.onnx")' in body
    assert "same class on all." in body
    assert "- seed: `3`" in body


def test_what_is_unknown_of_a_model_is_called_so():
    matter, body = card(FACTS)
    assert "model-index" not in matter
    assert "Not tested: " in body
    assert "Trained on unknown data; a part was held out to validate." in body


@pytest.mark.parametrize("rule", ["crop", "letterbox"])
def test_the_example_reads_a_photograph_as_predict_does(rule):
    """Also of a camera that was held upright, which only notes that in the file."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(256, size=(30, 50, 3), dtype=np.uint8)).save("my.jpg", exif=turned)
    lines = write_example("onnx", "my.onnx", 32, rule).splitlines()
    names = {"Image": Image, "ImageOps": ImageOps}
    exec("\n".join(line for line in lines if line.startswith(("upright =", "image ="))), names)
    assert (np.asarray(names["image"]) == read_image("my.jpg", Square(32, rule))).all()


def test_the_example_names_the_class_of_a_model_without_class_names(capsys):
    """Trained on other loaders than those of the data module."""
    save_weights(ImageClassifier(widths=(4, 4, 8, 8, 8)).eval(), Path("x.safetensors"), held_out=None)
    Image.new("RGB", (40, 40)).save("my.jpg")
    exec(write_example("safetensors", "x.safetensors", 32, "crop"), {})
    assert re.fullmatch(r"class \d\n", capsys.readouterr().out)


def test_the_example_trusts_the_package_of_a_network_that_is_imported():
    code = write_example("safetensors", "x.safetensors", 32, "crop", "mine.nets:build")
    assert "from lightning_cifar import load_pretrained, trust\n" in code
    assert 'with trust("mine"):  # runs its code\n    model = load_pretrained("x.safetensors")\n' in code
    assert "trust" not in write_example("onnx", "x.onnx", 32, "crop", "mine.nets:build")


def test_the_accuracy_over_several_seeds_is_on_the_card():
    _, body = card(WHOLE | {"recipe_accuracy": {"n": 3, "mean": 0.9055, "interval": [0.9005, 0.9105]}})
    assert "- the recipe, over 3 seeds: 90.55%, 95 % interval 90.05% to 91.05%" in body


def test_the_packaged_model_has_its_facts():
    facts = collect_facts(PRETRAINED, ["cat"])
    assert (facts["recipe"], facts["data"], facts["seed"]) == ("accurate", "CIFAR-10", 0)


@pytest.mark.slow
def test_a_run_and_its_test_give_their_facts(trained, tmp_path):
    checkpoint = tmp_path / "runs/demo/TIME/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes((trained / "checkpoints/last.ckpt").read_bytes())
    names = {"package", "classes", "held_out", "data", "dataset", "val_size", "split_seed"}
    assert collect_facts(checkpoint, ["0"]).keys() == names
    run = checkpoint.parents[1]
    (run / "run.json").write_bytes((trained / "run.json").read_bytes())
    digest = {"checkpoint_sha256": compute_digest(checkpoint)}
    (run / "config.yaml").touch()
    (run / "checkpoints/other.ckpt").write_bytes(checkpoint.read_bytes())
    for folder, result in (
        (run / "test", {"checkpoint": "../checkpoints/other.ckpt", **digest, **TEST, "accuracy": 0.1}),
        (tmp_path / "runs/test/TIME", {"checkpoint": str(checkpoint), **digest, **TEST}),
    ):
        folder.mkdir(parents=True)
        write_json(folder / "test.json", result)
    facts = collect_facts(checkpoint, ["0"])
    assert (facts["recipe"], facts["accuracy"], facts["data"]) == ("demo", 0.9184, "scikit-learn's digits")
    save_checkpoint(load_checkpoint(checkpoint) | {"epoch": 99}, checkpoint)  # trained on since
    assert "accuracy" not in collect_facts(checkpoint, ["0"])
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        collect_facts(checkpoint, ["0"])
