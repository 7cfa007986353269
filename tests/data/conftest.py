"""Fixtures of the data tests: a full disk, and the expected form of errors about bad input."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from lightning_cifar.errors import InputError


@pytest.fixture
def bad_input() -> Callable[..., AbstractContextManager[None]]:
    """Return a context that expects an `InputError` of one line which contains all given words."""

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
    """Return a context in which no file can grow beyond the given number of bytes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
