"""Recipes `fast` and `fast94` on the command line, with small networks on digits; others: commands/test_cli.py."""

import csv
import json

import pytest
import yaml

from lightning_cifar import main

SMALL = ["--data.dataset", "digits", "--data.batch_size", "100", "--model.widths", "[8,8,16,16,16]"]
SMALL += ["--trainer.log_every_n_steps", "5"]


@pytest.mark.parametrize(
    "recipe", [pytest.param("fast", marks=pytest.mark.long), pytest.param("fast94", marks=pytest.mark.slow)]
)
def test_fit_and_test_with_and_without_test_time_augmentation(recipe, tmp_path, capsys):
    run_dir = tmp_path / "run"
    options = [*SMALL, "--data.flip", "false", "--trainer.max_epochs", "2", "--run_dir", str(run_dir)]
    assert main(["fit", "--recipe", recipe, *options]) == 0
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["trainer"]["precision"] in ("32-true", "bf16-mixed")
    assert f"precision: {config['trainer']['precision']}, the faster one here" in capsys.readouterr().out
    with (run_dir / "metrics.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    losses = [float(row["train/loss_epoch"]) for row in rows if row.get("train/loss_epoch")]
    assert losses[1] < losses[0] - 0.2
    assert not any(name.startswith(("val/", "test/")) for name in rows[0])  # no validation

    tested = tmp_path / "tested"
    assert main(["test", "--ckpt_path", str(run_dir / "checkpoints/last.ckpt"), "--run_dir", str(tested)]) == 0
    result = json.loads((tested / "test.json").read_text())
    assert 0.3 < result["accuracy_without_tta"] <= 1
    assert 0.3 < result["accuracy"] <= 1
