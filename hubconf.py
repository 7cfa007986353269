"""Entry points of ``torch.hub.load("OWNER/REPOSITORY", "five_block_net", pretrained=True)``."""

from typing import Any

from lightning_cifar import ImageClassifier, load_pretrained

dependencies = ["torch", "torchvision", "lightning", "torchmetrics", "safetensors", "filelock"]


def five_block_net(pretrained: bool = False, **arguments: Any) -> ImageClassifier:
    """Return a classifier in evaluation mode: uint8 images (B, 3, 32, 32) to logits (B, K).

    Args:
        pretrained: return the trained CIFAR-10 model of the package instead of a new one.
        arguments: arguments of `ImageClassifier` for a new model.
    """
    return load_pretrained() if pretrained else ImageClassifier(**arguments).eval()
