"""Model card of an exported classifier, in Hugging Face's format: https://huggingface.co/docs/hub/model-cards."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lightning_cifar.errors import InputError, format_count
from lightning_cifar.evaluate.statistics import estimate_share_interval
from lightning_cifar.evaluate.tables import describe_partial, describe_worse
from lightning_cifar.evaluate.test_results import RESULT, find_current_test, find_tests
from lightning_cifar.files import WEIGHTS
from lightning_cifar.model.named import FIVE_BLOCK
from lightning_cifar.run.records.stored_files import DAMAGED, RECORD, read_json
from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
from lightning_cifar.run.weights import SPLIT, get_square, read_weights

DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "scikit-learn's digits",
    "folder": "an image folder",
}
HELD_OUT = {"test": ": all training images.", "val": "; a part was held out to validate.", None: "."}
TEST_FACTS = ("accuracy", "accuracy_without_tta", "images", "test_images", "loss", "calibration_error", "temperature")
IMAGE = """\
upright = ImageOps.exif_transpose(Image.open("my.jpg")).convert("RGB")  # 8 bits per channel, opaque
image = MAKE_SQUARE
"""
USES = {
    "safetensors": f"""\
import numpy as np
import torch
from lightning_cifar import load_pretrained
from PIL import Image, ImageOps

model = load_pretrained("FILE")
{IMAGE}images = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]  # uint8 (1, 3, SIDE, SIDE)
names = model.hparams["class_names"] or [f"class {{k}}" for k in range(model.hparams["num_classes"])]
print(names[model(images).argmax()])
""",
    "onnx": f"""\
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("FILE")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
{IMAGE}images = np.asarray(image).transpose(2, 0, 1)[None]  # uint8 (1, 3, SIDE, SIDE)
(logits,) = session.run(["logits"], {{"images": images}})
print(classes[logits[0].argmax()])
""",
    "torch.export": f"""\
import json
import numpy as np
import torch
from PIL import Image, ImageOps

facts = {{"facts.json": ""}}
model = torch.export.load("FILE", extra_files=facts).module()
classes = json.loads(facts["facts.json"])["classes"]
{IMAGE}images = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]  # uint8 (1, 3, SIDE, SIDE)
print(classes[model(images).argmax()])
""",
}
SQUARES = {
    "crop": "ImageOps.fit(upright, (SIDE, SIDE))",
    "letterbox": "ImageOps.pad(upright, (SIDE, SIDE), color=(128, 128, 128))",
}


def collect_facts(checkpoint: Path, class_names: list[str]) -> dict[str, Any]:
    """Return what is known of a model, as plain values, from a weights file or from a checkpoint's run and test.

    ``package``, ``classes`` and ``held_out`` are always given; ``recipe``, ``data``, ``seed``, ``accuracy`` if known.
    """
    package = f"lightning-cifar {version('lightning-cifar')}"
    facts: dict[str, Any] = {"package": package, "classes": class_names, "held_out": None}
    if checkpoint.suffix == WEIGHTS:
        return facts | read_weights(checkpoint).facts
    data = checkpoint_config(checkpoint)["data"]
    facts["held_out"] = data.get("held_out")
    if "dataset" in data:
        facts |= {"data": DATASETS[data["dataset"]], "dataset": data["dataset"]}
        facts |= {name: data[name] for name in SPLIT if data.get(name) is not None}
    run_dir = checkpoint.resolve().parent.parent
    if not (run_dir / RECORD).is_file():
        return facts
    run = read_record(run_dir / RECORD)
    tested = find_current_test(find_tests(run_dir), checkpoint)
    test = read_record(tested / RESULT) if tested else {}
    facts |= {name: run[name] for name in ("recipe", "seed", "precision", "git_commit") if run.get(name) is not None}
    if run.get("init_from"):
        facts["start"] = f"{Path(run['init_from']['file']).name}, SHA-256 {run['init_from']['sha256']}"
    facts |= {name: test[name] for name in TEST_FACTS if test.get(name) is not None}
    if test.get("temperature_scaled") and describe_worse(test):
        del facts["temperature"]
    return facts


def read_record(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(file)
        content.keys()
    except (OSError, *DAMAGED) as error:
        raise InputError(f"{file} is damaged ({error}): delete it") from error
    return content


def format_card(
    facts: dict[str, Any], hyper_parameters: dict[str, Any], name: str, file_format: str, checked: str
) -> str:
    """Return the card of the exported file ``name`` as Markdown; ``checked``: its comparison with the PyTorch model."""
    recipe, classes = facts.get("recipe", "custom"), facts["classes"]
    members, named = hyper_parameters.get("members", 1), hyper_parameters.get("network", FIVE_BLOCK)
    square = get_square(hyper_parameters)
    example, side = write_example(file_format, name, square.side, square.rule, named), square.side
    kind = "of five gated convolutional blocks" if named == FIVE_BLOCK else f"`{named}`"
    title = "FiveBlockNet" if named == FIVE_BLOCK else named
    network = f"A network {kind}"
    if members > 1:
        network = f"An ensemble of {members} networks {kind}, whose logits are averaged"
    parts = {
        "": f"{network}. It classifies {side}x{side} RGB images into {len(classes)} classes: {', '.join(classes)}. "
        f"Trained with {facts['package']}, recipe `{recipe}`.",
        "Data": f"Trained on {facts.get('data', 'unknown data')}" + HELD_OUT[facts["held_out"]],
        "Training": format_training(facts),
        "Accuracy": format_accuracy(facts),
        "Calibration": format_calibration(facts, file_format),
        "Limits": "Every image is assigned one of these classes, whatever it shows. Accuracy is lower on images whose "
        "size, source or compression differs from the training data. The file computes logits without test-time "
        "augmentation.",
        "How to use": f"`{name}` takes uint8 RGB images (B, 3, {side}, {side}), any B; the normalisation is inside. "
        f"Compared with the PyTorch model: {checked}.\n\n```python\n{example}```",
    }
    text = "\n\n".join((f"## {title}\n\n" if title else "") + words for title, words in parts.items())
    return (
        f"---\n{format_front_matter(facts, title, file_format)}---\n\n# {title}, {recipe}\n\n{text}\n\n"
        f"<details><summary>Hyper-parameters</summary>\n\n```yaml\n{yaml.safe_dump(hyper_parameters)}```\n\n</details>\n"
    )


def write_example(file_format: str, name: str, side: int, rule: str, network: str = FIVE_BLOCK) -> str:
    """Return code that uses the file ``name``, whose model takes images of ``side`` pixels, made square by ``rule``.

    A file of weights names its ``network``; if it is imported, the code trusts its package.
    """
    code, load = USES[file_format], 'model = load_pretrained("FILE")'
    module, imported, _ = network.partition(":")
    if imported:
        code = code.replace(load, f'with trust("{module.partition(".")[0]}"):  # runs its code\n    {load}')
        code = code.replace("import load_pretrained\n", "import load_pretrained, trust\n")
    return code.replace("MAKE_SQUARE", SQUARES[rule]).replace("SIDE", str(side)).replace("FILE", name)


def format_front_matter(facts: dict[str, Any], network: str, file_format: str) -> str:
    matter: dict[str, Any] = {
        "library_name": "lightning-cifar",
        "pipeline_tag": "image-classification",
        "tags": ["five-block-net" if network == "FiveBlockNet" else network, file_format],
        "metrics": ["accuracy"],
    }
    if "accuracy" in facts:
        data = facts.get("data", "unknown")
        datasets = {name: dataset for dataset, name in DATASETS.items()}
        share = facts.get("accuracy_without_tta", facts["accuracy"])
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": datasets.get(data.split(" (")[0], "other")},
            "metrics": [{"type": "accuracy", "value": round(share, 4)}],
        }
        matter["model-index"] = [{"name": f"{network}, {facts.get('recipe', 'custom')}", "results": [result]}]
    return yaml.safe_dump(matter, sort_keys=False)


def format_training(facts: dict[str, Any]) -> str:
    words = {
        "start": "fine-tuned from",
        "seed": "seed",
        "precision": "precision",
        "git_commit": "commit",
        "command": "command",
    }
    known = [f"- {word}: `{facts[name]}`" for name, word in words.items() if name in facts]
    return "\n".join(known) or "Unknown."


def format_accuracy(facts: dict[str, Any]) -> str:
    """Return a line for each accuracy, with its interval over images and, if known, over seeds."""
    if "accuracy" not in facts:
        return "Not tested: `python -m lightning_cifar test --ckpt_path CHECKPOINT`, then export again."
    # By value: both are the same without test-time augmentation.
    shares = {facts["accuracy"]: "with the model's test-time augmentation"}
    tested = describe_partial(facts) if "images" in facts else ""
    shares[facts.get("accuracy_without_tta", facts["accuracy"])] = f"on {tested or 'the test images'}"
    lines = []
    for share, words in shares.items():
        lines.append(f"- {share:.2%} {words}")
        if images := facts.get("images"):
            low, high = estimate_share_interval(share, images)
            lines[-1] += f", 95 % interval {low:.2%} to {high:.2%} (Wilson, {format_count(images, 'image')})"
    seeds = facts.get("recipe_accuracy")
    if seeds and seeds["interval"]:
        low, high = seeds["interval"]
        lines.append(
            f"- the recipe, over {seeds['n']} seeds: {seeds['mean']:.2%}, 95 % interval {low:.2%} to {high:.2%}"
        )
    return "\n".join(lines)


def format_calibration(facts: dict[str, Any], file_format: str) -> str:
    text = "Not measured."
    if "calibration_error" in facts:
        when = "in the test, before temperature scaling" if "temperature" in facts else "in the test"
        text = (
            f"Expected calibration error {facts['calibration_error']:.4f} (15 bins), loss {facts['loss']:.4f} {when}."
        )
    if "temperature" in facts:
        user = "`predict`, `serve` and `predict_step` divide" if file_format == "safetensors" else "This file divides"
        text += f" {user} the logits by the temperature {facts['temperature']:.3f}, fitted on held-out images."
    return text
