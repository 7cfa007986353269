"""What the tests of the data package share: an image folder, a full disk, and how bad input must end."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifar.errors import InputError


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Random 32x32 bitmaps: 12 cats and 6 dogs to train on, 2 and 1 in ``val`` and in ``test``; blue is the darkest."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for part, cats, dogs in (("train", 12, 6), ("val", 2, 1), ("test", 2, 1)):
        for name, count in (("cat", cats), ("dog", dogs)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, (256, 200, 100), (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"image-{index:02}.bmp")
    return root


@pytest.fixture
def bad_input() -> Callable[..., AbstractContextManager[None]]:
    """A context, given words, in which an `InputError` of one line that holds all of them must be raised."""

    @contextmanager
    def expect(*words: object) -> Iterator[None]:
        with pytest.raises(InputError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert [word for word in words if str(word) not in message] == [], message

    return expect


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """A context, given a size, in which no file can grow beyond so many bytes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
