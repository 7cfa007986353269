"""Each batched augmentation is held to torchvision's transform of one image at a time, given the same draws."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from lightning_cifar.data import augment

SHAPES = [(7, 3, 32, 32), (5, 1, 9, 14), (4, 3, 14, 9), (1, 3, 32, 32)]  # (B, C, H, W)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[torch.uint8, torch.float32], ids=["uint8", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def noise(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=seeded(1))
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 255


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flip_is_torchvisions_image_by_image(shape, dtype):
    images, flips = noise(shape, dtype), augment.draw_flips(shape[0], seeded())
    twin = [tv.horizontal_flip(image) if mirrored else image for image, mirrored in zip(images, flips, strict=True)]
    assert augment.flip(images, flips).dtype == dtype
    assert torch.equal(augment.flip(images, flips), torch.stack(twin))


@pytest.mark.parametrize("mirrored", [True, False])
def test_flip_of_a_single_image(mirrored):
    image = noise((1, 3, 8, 8), torch.uint8)
    flipped = augment.flip(image, torch.tensor([mirrored]))
    assert torch.equal(flipped, image.flip(-1) if mirrored else image)


@pytest.mark.parametrize("padding", [0, 1, 4, 8])  # 8: the most that a side of 9 allows
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_crop_is_torchvisions_image_by_image(shape, dtype, padding):
    images, offsets = noise(shape, dtype), augment.draw_offsets(shape[0], padding, seeded())
    twin = [
        tv.crop(tv.pad(image, [padding], padding_mode="reflect"), top, left, *image.shape[-2:])
        for image, (top, left) in zip(images, offsets.tolist(), strict=True)
    ]
    assert augment.crop(images, offsets, padding).dtype == dtype
    assert torch.equal(augment.crop(images, offsets, padding), torch.stack(twin))


def test_crop_at_every_offset():
    padding, corners = 2, torch.cartesian_prod(torch.arange(5), torch.arange(5))
    images = noise((25, 3, 6, 5), torch.uint8)
    padded = tv.pad(images, [padding], padding_mode="reflect")
    twin = [padded[i, :, top : top + 6, left : left + 5] for i, (top, left) in enumerate(corners.tolist())]
    assert torch.equal(augment.crop(images, corners, padding), torch.stack(twin))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crop_is_channels_last_whatever_came_in(layout):
    images = noise((4, 3, 8, 8), torch.uint8).contiguous(memory_format=layout)
    cropped = augment.crop(images, augment.draw_offsets(4, 2, seeded()), 2)
    assert cropped.is_contiguous(memory_format=torch.channels_last)


def test_images_are_left_as_they_were():
    images = noise((6, 3, 8, 8), torch.uint8)
    before = images.clone()
    augment.crop(augment.flip(images, torch.ones(6, dtype=torch.bool)), augment.draw_offsets(6, 3, seeded()), 3)
    assert torch.equal(images, before)


def test_flips_are_drawn_per_image_with_probability_one_half():
    flips = augment.draw_flips(10_000, seeded())
    assert flips.shape == (10_000,)
    assert flips.dtype == torch.bool
    assert abs(flips.float().mean() - 0.5) < 0.02  # four standard deviations


@pytest.mark.parametrize("padding", [1, 4])
def test_offsets_are_drawn_per_image_uniformly_over_the_whole_range(padding):
    offsets = augment.draw_offsets(50_000, padding, seeded())
    side = 2 * padding + 1
    pairs = torch.bincount(offsets[:, 0] * side + offsets[:, 1], minlength=side**2)
    assert offsets.min() == 0
    assert offsets.max() == 2 * padding
    assert len(pairs) == side**2  # rows and columns independent: every pair, equally often
    expected = 50_000 / side**2
    assert (pairs - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize(
    "draw", [augment.draw_flips, lambda batch, generator: augment.draw_offsets(batch, 4, generator)]
)
def test_draws_are_a_function_of_the_generator(draw):
    assert torch.equal(draw(100, seeded(3)), draw(100, seeded(3)))
    assert not torch.equal(draw(100, seeded(3)), draw(100, seeded(4)))
