"""Test-time augmentation compared with the same views made image by image."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from lightning_cifar import ImageClassifier
from lightning_cifar.train.tta import make_views

SMALL = {"widths": (4, 8, 8, 8, 8), "hidden": 16}


def average_by_hand(model, image, tta):
    """Return the mean logits of one normalised image (C, H, W), view by view."""
    padded = v2.Pad(1, padding_mode="reflect")(image)
    up, down = TF.crop(padded, 0, 0, 32, 32), TF.crop(padded, 2, 2, 32, 32)
    views = {"none": [(1, image)], "mirror": [(1, image)], "translate": [(2, image), (1, up), (1, down)]}[tta]
    if tta != "none":
        views += [(weight, TF.hflip(view)) for weight, view in views]
    total = sum(weight for weight, _ in views)
    return sum(weight / total * model.network(view[None])[0] for weight, view in views)


@pytest.mark.parametrize("flip_equivariant", [False, True])
@pytest.mark.parametrize("tta", ["none", "mirror", "translate"])
def test_logits_are_the_mean_over_views(tta, flip_equivariant):
    model = ImageClassifier(tta=tta, flip_equivariant=flip_equivariant, **SMALL).eval()
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = torch.stack([average_by_hand(model, image, tta) for image in model.normalise(images)])
    averaged, plain = model.average_views(images)
    torch.testing.assert_close(averaged, expected)
    torch.testing.assert_close(plain, model(images))


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("mirror", 2), ("translate", 6)])
def test_weights_sum_to_one(tta, count):
    for flip_equivariant, expected in ((False, count), (True, (count + 1) // 2)):
        weighted = make_views(torch.zeros(1, 3, 4, 4), tta, flip_equivariant)
        assert (len(weighted), sum(weight for weight, _ in weighted)) == (expected, 1)
