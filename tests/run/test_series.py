"""Series of many runs."""

import time

from lightning_cifar.run.job import parse
from lightning_cifar.run.process.state import process_settings
from lightning_cifar.run.series import refuse_other_settings
from lightning_cifar.run.settings.precedence import layer


def test_settings_of_earlier_runs_are_read_once(tmp_path):
    """Each run compares its settings with those of all before, which took an hour in a sweep of hundreds of trials."""
    words = ["fit", "--recipe", "demo"]
    with process_settings():
        job = parse(layer(words), words)
        for number in range(20):
            directory = tmp_path / f"trial{number}"
            directory.mkdir()
            (directory / "config.yaml").write_text(job.dump())
        refuse_other_settings(job, tmp_path, "trial", ())
        start = time.perf_counter()
        for _ in range(5):
            refuse_other_settings(job, tmp_path, "trial", ())
    assert time.perf_counter() - start < 1
