"""For ``torch.hub.load("OWNER/REPOSITORY", "five_block_net", pretrained=True)``; of a checkout: ``source="local"``."""

from typing import Any

from lightning_cifar import ImageClassifier, load_pretrained

dependencies = ["torch", "torchvision", "lightning", "torchmetrics", "safetensors", "filelock"]


def five_block_net(pretrained: bool = False, **arguments: Any) -> ImageClassifier:
    """A classifier of uint8 images (B, 3, 32, 32), in evaluation mode, which gives logits (B, K).

    Args:
        pretrained: the one in the package (CIFAR-10), instead of a new one.
        arguments: of `ImageClassifier`, for a new one.
    """
    return load_pretrained() if pretrained else ImageClassifier(**arguments).eval()
