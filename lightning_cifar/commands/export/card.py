"""A model card: what is known of a trained classifier, as Hugging Face reads it, and how its file is used.

https://huggingface.co/docs/hub/model-cards
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lightning_cifar.errors import InputError
from lightning_cifar.evaluate.statistics import share_interval
from lightning_cifar.evaluate.test_results import outdated, tested_in, tests_of
from lightning_cifar.options import WEIGHTS
from lightning_cifar.train.weights import checkpoint_config, read_weights

DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "scikit-learn's digits",
    "folder": "an image folder",
}
HELD_OUT = {"test": ", all training images.", "val": ", less a validation split.", None: "."}  # as it was trained
OF_TEST = ("accuracy", "accuracy_without_tta", "images", "loss", "calibration_error", "temperature")
USES = {
    "safetensors": """\
from lightning_cifar import load_pretrained

model = load_pretrained("FILE")
logits = model(images)  # uint8 (B, 3, 32, 32)
""",
    "onnx": """\
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("FILE")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
picture = ImageOps.fit(Image.open("my.jpg").convert("RGB"), (32, 32))
images = np.asarray(picture).transpose(2, 0, 1)[None]  # uint8 (1, 3, 32, 32)
(logits,) = session.run(["logits"], {"images": images})
print(classes[logits[0].argmax()])
""",
    "torch.export": """\
import torch

model = torch.export.load("FILE").module()
logits = model(images)  # uint8 (B, 3, 32, 32)
""",
}


def facts_of(checkpoint: Path, class_names: list[str]) -> dict[str, Any]:
    """What a file of weights says of itself; or, of a checkpoint, what its run and its test have left, where they have.

    Plain values: ``package``, ``classes``, ``held_out``, and perhaps ``recipe``, ``data``, ``seed``, ``accuracy`` ...

    Raises:
        InputError: ``run.json`` is damaged.
    """
    facts: dict[str, Any] = {"package": f"lightning-cifar {version('lightning-cifar')}", "classes": class_names}
    if checkpoint.suffix == WEIGHTS:
        return facts | read_weights(checkpoint)[1]
    data = checkpoint_config(checkpoint)["data"]
    facts["held_out"] = data.get("held_out")
    if "dataset" in data:
        facts["data"] = DATASETS[data["dataset"]]
    run_dir = checkpoint.resolve().parent.parent
    if not (run_dir / "run.json").is_file():
        return facts
    run, test = read(run_dir / "run.json"), last_test(checkpoint, run_dir)
    facts |= {name: run[name] for name in ("recipe", "seed", "precision", "git_commit") if run.get(name) is not None}
    facts |= {name: test[name] for name in OF_TEST if test.get(name) is not None}
    return facts


def last_test(checkpoint: Path, run_dir: Path) -> dict[str, Any]:
    """The newest ``test.json`` of the checkpoint as it is; {} where there is none."""
    for test in tests_of(run_dir):
        tested = tested_in(test)
        if tested and tested.resolve() == checkpoint.resolve() and not outdated(test):
            return read(test / "test.json")
    return {}


def read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}): delete it, or write it anew") from error
    return found


def model_card(facts: dict[str, Any], hyper_parameters: dict[str, Any], name: str, form: str, checked: str) -> str:
    """The card, in Markdown.

    Args:
        facts: see `facts_of`.
        hyper_parameters: of the classifier.
        name: of the file that it goes with.
        form: its format.
        checked: what was found when the file was held against the model.
    """
    recipe, classes = facts.get("recipe", "custom"), facts["classes"]
    several = hyper_parameters.get("members", 1)
    network = "Five gated convolutional blocks"
    if several > 1:
        network = f"{several} networks of five gated convolutional blocks each, whose logits are averaged,"
    parts = {
        "": f"{network} that tell {len(classes)} classes of 32x32 RGB images apart: "
        f"{', '.join(classes)}. Made by {facts['package']}, recipe `{recipe}`.",
        "Data": f"Trained on {facts.get('data', 'data that nothing is said of')}" + HELD_OUT[facts["held_out"]],
        "Training": training(facts),
        "Accuracy": accuracy(facts),
        "Calibration": calibration(facts),
        "Limits": "Every image is given one of these classes, whatever it shows. Images of another size, source or "
        "compression than the data's are classified worse. The file gives logits of the image as it is, without "
        "test-time augmentation.",
        "How to use": f"`{name}` takes uint8 images (B, 3, 32, 32), RGB, any B; the normalisation is inside. Held "
        f"against the model it was made of: {checked}.\n\n```python\n{USES[form].replace('FILE', name)}```",
    }
    text = "\n\n".join((f"## {title}\n\n" if title else "") + words for title, words in parts.items())
    return (
        f"---\n{front_matter(facts, form)}---\n\n# FiveBlockNet, {recipe}\n\n{text}\n\n"
        f"<details><summary>Hyper-parameters</summary>\n\n```yaml\n{yaml.safe_dump(hyper_parameters)}```\n\n</details>\n"
    )


def front_matter(facts: dict[str, Any], form: str) -> str:
    matter: dict[str, Any] = {
        "library_name": "lightning-cifar",
        "pipeline_tag": "image-classification",
        "tags": ["five-block-net", form],
        "metrics": ["accuracy"],
    }
    if "accuracy" in facts:
        data = facts.get("data", "unknown")
        kinds = {words: kind for kind, words in DATASETS.items()}
        share = facts.get("accuracy_without_tta", facts["accuracy"])
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": kinds.get(data.split(" (")[0], "other")},
            "metrics": [{"type": "accuracy", "value": round(share, 4)}],
        }
        matter["model-index"] = [{"name": f"FiveBlockNet, {facts.get('recipe', 'custom')}", "results": [result]}]
    return yaml.safe_dump(matter, sort_keys=False)


def training(facts: dict[str, Any]) -> str:
    words = {"seed": "seed", "precision": "precision", "git_commit": "commit", "command": "command"}
    known = [f"- {word}: `{facts[name]}`" for name, word in words.items() if name in facts]
    return "\n".join(known) or "Nothing is said of it."


def accuracy(facts: dict[str, Any]) -> str:
    """Each accuracy with what is known of its uncertainty: by the count of images, and by seeds."""
    if "accuracy" not in facts:
        return "Not tested: `python -m lightning_cifar test --ckpt_path CHECKPOINT`, then export again."
    # By value: without test-time augmentation both are one.
    shares = {facts["accuracy"]: "with the model's test-time augmentation"}
    shares[facts.get("accuracy_without_tta", facts["accuracy"])] = "on the test images"
    lines = []
    for share, words in shares.items():
        lines.append(f"- {share:.2%} {words}")
        if images := facts.get("images"):
            low, high = share_interval(share, images)
            lines[-1] += f", 95 % interval {low:.2%} to {high:.2%} (Wilson, {images:,} images)"
    seeds = facts.get("recipe_accuracy")
    if seeds and seeds["interval"]:
        low, high = seeds["interval"]
        lines.append(
            f"- the recipe, over {seeds['n']} seeds: {seeds['mean']:.2%}, 95 % interval {low:.2%} to {high:.2%}"
        )
    return "\n".join(lines)


def calibration(facts: dict[str, Any]) -> str:
    if "calibration_error" not in facts:
        return "Not measured."
    scaled = facts.get("temperature")
    return (
        f"Expected calibration error {facts['calibration_error']:.4f} (15 bins), loss {facts['loss']:.4f}, as tested."
        + (
            f" Divide the logits by {scaled:.3f}, fitted on the validation images, for better probabilities."
            if scaled
            else ""
        )
    )
