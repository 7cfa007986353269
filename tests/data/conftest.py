"""What the tests of the data package share: a full disk, and how bad input must end."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from lightning_cifar.errors import InputError


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
