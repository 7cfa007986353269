"""Each batched function equals, bit for bit, a plain loop over images with the same draws."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from lightning_cifar.data import augment

SHAPES = [(7, 3, 32, 32), (5, 1, 9, 14), (4, 3, 14, 9), (1, 3, 32, 32)]  # (B, C, H, W)


def seed_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[torch.uint8, torch.float32], ids=["uint8", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def make_noise(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=seed_generator(1))
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 255


def flip_crop_reference(images: torch.Tensor, flips: torch.Tensor, offsets: torch.Tensor, padding: int) -> torch.Tensor:
    """Flip and crop each image with torchvision."""
    results = []
    for image, mirrored, (top, left) in zip(images, flips.tolist(), offsets.tolist(), strict=True):
        padded = tv.pad(tv.horizontal_flip(image) if mirrored else image, [padding], padding_mode="reflect")
        results.append(tv.crop(padded, top, left, *image.shape[-2:]))
    return torch.stack(results)


def cutout_reference(images: torch.Tensor, centres: torch.Tensor, size: int, fill: torch.Tensor) -> torch.Tensor:
    results = images.clone()
    for image, centre in zip(results, centres.tolist(), strict=True):
        top, left = (max(0, position - size // 2) for position in centre)
        bottom, right = (max(0, position - size // 2 + size) for position in centre)
        image[:, top:bottom, left:right] = fill[:, None, None]
    return results


def normalise_reference(image: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    scale = 1 / std if image.is_floating_point() else 1 / std / 255
    return torch.stack([channel * scale[i] + (-mean / std)[i] for i, channel in enumerate(image)])


@pytest.mark.parametrize("padding", [0, 1, 4, 8])  # 8: the most that a side of 9 allows
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flip_and_crop_equal_torchvision_on_single_images(shape, dtype, padding):
    images = make_noise(shape, dtype)
    flips, offsets = (
        augment.draw_flips(shape[0], seed_generator()),
        augment.draw_offsets(shape[0], padding, seed_generator()),
    )
    found = augment.flip_crop(images, flips, offsets, padding)
    assert found.dtype == dtype
    assert torch.equal(found, flip_crop_reference(images, flips, offsets, padding))


@pytest.mark.parametrize("mirrored", [True, False])
def test_flip_without_padding_is_exact(mirrored):
    image = make_noise((1, 3, 8, 8), torch.uint8)
    flipped = augment.flip_crop(image, torch.tensor([mirrored]), torch.zeros(1, 2, dtype=torch.int64), 0)
    assert torch.equal(flipped, image.flip(-1) if mirrored else image)


@pytest.mark.parametrize("padding", [2, 4])  # 4: the most that a side of 5 allows
def test_every_flip_and_offset_equals_torchvision(padding):
    side = torch.arange(2 * padding + 1)
    draws = torch.cartesian_prod(torch.arange(2), side, side)
    images, flips, offsets = make_noise((len(draws), 3, 6, 5), torch.uint8), draws[:, 0].bool(), draws[:, 1:]
    found = augment.flip_crop(images, flips, offsets, padding)
    assert torch.equal(found, flip_crop_reference(images, flips, offsets, padding))


@pytest.mark.parametrize("size", [1, 2, 5, 8, 40])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cutout_equals_a_plain_loop(shape, dtype, size):
    images, centres = make_noise(shape, dtype), augment.draw_centres(shape[0], *shape[-2:], seed_generator())
    fill = make_noise((shape[1],), dtype)
    found = augment.cutout(images, centres, size, fill)
    assert found.dtype == dtype
    assert torch.equal(found, cutout_reference(images, centres, size, fill))


@pytest.mark.parametrize("size", [3, 4])
def test_cutout_at_every_centre_equals_a_plain_loop(size):
    centres = torch.cartesian_prod(torch.arange(6), torch.arange(5))
    images, fill = make_noise((30, 3, 6, 5), torch.uint8), torch.tensor([7, 8, 9], dtype=torch.uint8)
    assert torch.equal(augment.cutout(images, centres, size, fill), cutout_reference(images, centres, size, fill))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalise_equals_a_plain_loop(shape, dtype):
    images, (mean, std) = make_noise(shape, dtype), torch.rand(2, shape[1], generator=seed_generator(2)) + 0.1
    before = images.clone()
    found = augment.normalise(images, mean, std)
    assert torch.equal(found, torch.stack([normalise_reference(image, mean, std) for image in images]))
    pixels = images if dtype.is_floating_point else images / 255
    torch.testing.assert_close(found, (pixels - mean[:, None, None]) / std[:, None, None])
    assert torch.equal(images, before)


def test_normalise_has_the_dtype_of_the_mean():
    mean = torch.full((3,), 0.5, dtype=torch.float64)
    assert augment.normalise(make_noise((2, 3, 8, 8), torch.uint8), mean, mean).dtype == torch.float64


def apply_all(images: torch.Tensor, device: str = "cpu") -> list[torch.Tensor]:
    """Apply every function to the images, with draws made on the CPU."""
    flips, offsets = (
        augment.draw_flips(len(images), seed_generator()).to(device),
        augment.draw_offsets(len(images), 2, seed_generator()).to(device),
    )
    centres = augment.draw_centres(len(images), *images.shape[-2:], seed_generator()).to(device)
    statistics = torch.full((3,), 0.5).to(device)
    return [
        augment.flip_crop(images.to(device), flips, offsets, 2),
        augment.cutout(images.to(device), centres, 3, torch.tensor([1, 2, 3], dtype=torch.uint8, device=device)),
        augment.normalise(images.to(device), statistics, statistics),
    ]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_are_channels_last_for_any_input_layout(layout):
    images = make_noise((4, 3, 8, 8), torch.uint8).contiguous(memory_format=layout)
    assert all(result.is_contiguous(memory_format=torch.channels_last) for result in apply_all(images))


def test_inputs_are_not_modified():
    images = make_noise((6, 3, 8, 8), torch.uint8)
    before = images.clone()
    apply_all(images)
    assert torch.equal(images, before)


@pytest.mark.gpu
def test_results_on_a_gpu_equal_those_on_the_cpu():
    images = make_noise((64, 3, 32, 32), torch.uint8)
    for found, expected in zip(apply_all(images, "cuda"), apply_all(images), strict=True):
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), expected)


def test_flips_are_drawn_per_image_with_probability_one_half():
    flips = augment.draw_flips(10_000, seed_generator())
    assert flips.shape == (10_000,)
    assert flips.dtype == torch.bool
    assert abs(flips.float().mean() - 0.5) < 0.02  # four standard deviations


@pytest.mark.parametrize("padding", [1, 4])
def test_offsets_are_drawn_per_image_uniformly_over_the_whole_range(padding):
    offsets = augment.draw_offsets(50_000, padding, seed_generator())
    side = 2 * padding + 1
    pairs = torch.bincount(offsets[:, 0] * side + offsets[:, 1], minlength=side**2)
    assert offsets.min() == 0
    assert offsets.max() == 2 * padding
    assert len(pairs) == side**2  # rows and columns independent: every pair, equally often
    expected = 50_000 / side**2
    assert (pairs - expected).abs().max() < 5 * expected**0.5


def test_centres_are_drawn_per_image_uniformly_over_all_pixels():
    centres = augment.draw_centres(50_000, 6, 9, seed_generator())
    counts = torch.bincount(centres[:, 0] * 9 + centres[:, 1], minlength=54)
    assert len(counts) == 54
    expected = 50_000 / 54
    assert (counts - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize(
    "draw",
    [
        augment.draw_flips,
        lambda batch, generator: augment.draw_offsets(batch, 4, generator),
        lambda batch, generator: augment.draw_centres(batch, 32, 32, generator),
    ],
)
def test_draws_depend_only_on_the_generator(draw):
    assert torch.equal(draw(100, seed_generator(3)), draw(100, seed_generator(3)))
    assert not torch.equal(draw(100, seed_generator(3)), draw(100, seed_generator(4)))
