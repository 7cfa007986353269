"""Series of many runs."""

from lightning_cifar.run.job import parse
from lightning_cifar.run.process.state import process_settings
from lightning_cifar.run.series import read_run_config, refuse_other_settings
from lightning_cifar.run.settings.precedence import layer


def test_settings_of_earlier_runs_are_read_once(tmp_path):
    """Each run compares its settings with those of all before, which took an hour in a sweep of hundreds of trials."""
    words = ["fit", "--recipe", "demo"]
    with process_settings():
        job = parse(layer(words), words)
        text, before = job.dump(), read_run_config.cache_info().misses
        for number in range(3):
            directory = tmp_path / f"trial{number}"
            directory.mkdir()
            (directory / "config.yaml").write_text(text)
            refuse_other_settings(job, tmp_path, "trial", ())
    assert read_run_config.cache_info().misses - before == 3
