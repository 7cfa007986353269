"""A wait for another process has an end."""

import pytest

from lightning_cifar import InputError
from lightning_cifar.sources import locks
from lightning_cifar.sources.locks import one_at_a_time


def test_a_wait_for_another_process_has_a_line_and_an_end(tmp_path, monkeypatch, capsys):
    acquire = locks.acquire
    monkeypatch.setattr(locks, "acquire", lambda file, seconds, refusal, **options: acquire(file, 0.1, refusal))
    with (
        one_at_a_time(tmp_path / "x.lock", "downloads"),
        pytest.raises(InputError, match="waited an hour for another process, which downloads"),
        one_at_a_time(tmp_path / "x.lock", "downloads"),
    ):
        pass
    assert capsys.readouterr().out == "waiting for another process, which downloads\n"
