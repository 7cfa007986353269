"""Entry points of ``torch.hub.load("OWNER/REPOSITORY", "five_block_net", pretrained=True)``."""

import json
from typing import Any

from lightning_cifar import ImageClassifier, InputError, load_pretrained

dependencies = ["torch", "torchvision", "lightning", "torchmetrics", "safetensors", "filelock"]


def five_block_net(pretrained: bool = False, **arguments: Any) -> ImageClassifier:
    """Return a classifier in evaluation mode: uint8 images (B, 3, 32, 32) to logits (B, K).

    Args:
        pretrained: return the trained CIFAR-10 model of the package instead of a new one.
        arguments: arguments of `ImageClassifier` for a new model.

    Raises:
        InputError: an argument differs from that of the trained model, which cannot be changed.
    """
    if not pretrained:
        return ImageClassifier(**arguments).eval()
    model = load_pretrained()
    for name, value in arguments.items():
        if name not in model.hparams or model.hparams[name] != json.loads(json.dumps(value, default=str)):
            stored = model.hparams.get(name, "its default")
            raise InputError(f"pretrained=True has {name}={stored}, got {value!r}: leave it out, or pretrained=False")
    return model
