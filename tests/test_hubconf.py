"""torch.hub loads models from a checkout."""

from pathlib import Path

import pytest
import torch

from lightning_cifar import InputError, load_pretrained

ROOT = str(Path(__file__).parents[1])


def test_the_pretrained_model_is_that_of_the_package():
    model = torch.hub.load(ROOT, "five_block_net", pretrained=True, source="local")
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert model(images).equal(load_pretrained()(images))


def test_a_new_model_takes_arguments():
    model = torch.hub.load(ROOT, "five_block_net", num_classes=3, widths=(4, 4, 4, 4, 4), source="local")
    assert model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 3)


@pytest.mark.parametrize("arguments", [{"num_classes": 3}, {"widths": (4, 4, 4, 4, 4)}, {"no_such": 1}])
def test_the_pretrained_model_takes_no_other_arguments(arguments):
    with pytest.raises(InputError, match=f"pretrained=True has {next(iter(arguments))}="):
        torch.hub.load(ROOT, "five_block_net", pretrained=True, source="local", **arguments)


def test_an_argument_may_repeat_a_value_of_the_pretrained_model():
    widths = tuple(load_pretrained().hparams["widths"])  # stored as a list
    torch.hub.load(ROOT, "five_block_net", pretrained=True, source="local", num_classes=10, widths=widths)
