"""What W&B is told of a run, read back from the records of offline runs; and what it is not told."""

import getpass
import json
import os
import socket
from pathlib import Path

import pytest

from lightning_cifar import main
from lightning_cifar.run import wandb as ours

wandb = pytest.importorskip("wandb")


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory) -> Path:
    """The directory of a run of two epochs, logged offline, with its checkpoint."""
    run_dir = tmp_path_factory.mktemp("logged") / "run"
    os.environ["WANDB_DATA_DIR"] = str(run_dir.parent / "staged")
    args = [*tiny, "--trainer.max_epochs", "2", "--wandb", "offline", "--wandb_checkpoints", "--run_dir", str(run_dir)]
    assert main(["fit", *args]) == 0
    del os.environ["WANDB_DATA_DIR"]
    return run_dir


def told(items) -> dict:
    """Keys and values of a record."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(records) -> list[dict]:
    return [told(record.history.item) for record in records if record.HasField("history")]


def summary(records) -> dict:
    found = {}
    for record in records:
        found |= told(record.summary.update)
    return found


def run_of(records):
    return next(record.run for record in records if record.HasField("run"))


def test_names_are_in_groups(logged, wandb_records):
    names = {name for row in history(wandb_records(logged)) for name in row if not name.startswith("_")}
    names = {name for name in names if name.split("/")[:2] != ["train", "curves"]}
    assert {name.split("/")[0] for name in names} == {"train", "val", "time", "gates", "trainer", "epoch"}
    assert {
        "train/loss_step",
        "train/accuracy_epoch",
        "val/accuracy",
        "time/epoch_images_per_second",
        "gates/block5_branch3",
        "gates/block1_dead",
    } <= names


def test_everything_is_drawn_over_steps_and_the_best_is_kept(logged, wandb_records):
    records = wandb_records(logged)
    metrics = {one.metric.name or one.metric.glob_name: one.metric for one in records if one.HasField("metric")}
    assert metrics["*"].step_metric == "trainer/global_step"
    rows = history(records)
    steps = [row["trainer/global_step"] for row in rows]
    assert steps == sorted(steps)
    accuracies = [row["val/accuracy"] for row in rows if "val/accuracy" in row]
    assert len(accuracies) == 2
    assert summary(records)["val/accuracy"] == {"max": max(accuracies)}
    assert summary(records)["val/loss"] == {"min": min(row["val/loss"] for row in rows if "val/loss" in row)}


def test_a_sweep_reads_the_last_value(tmp_path, monkeypatch, wandb_records):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    logger = ours.wandb_logger("offline", tmp_path)
    for accuracy in (0.9, 0.8):
        logger.log_metrics({"val/accuracy": accuracy}, step=1)
    ours.finish(logger, failed=True)
    records = wandb_records(tmp_path)
    assert (summary(records)["val/accuracy"], records[-1].exit.exit_code) == (0.8, 1)


def test_the_run_is_described(logged, wandb_records):
    run = run_of(wandb_records(logged))
    assert (run.display_name, run.run_group, list(run.tags), run.job_type) == ("demo/run", "demo", ["demo"], "fit")
    config = told(run.config.update)
    assert (config["recipe"], config["model"]["widths"], config["data"]["dataset"]) == (
        "demo",
        [4, 4, 8, 8, 8],
        "digits",
    )


def test_curves_and_checkpoint(logged, wandb_records):
    records = wandb_records(logged)
    row = next(row for row in history(records) if "train/curves/path" in row)
    (file,) = logged.glob("wandb/offline-run-*/files/" + row["train/curves/path"])
    assert file.read_bytes() == (logged / "curves.png").read_bytes()
    (artifact,) = (one.artifact for one in records if one.HasField("artifact"))
    (content,) = artifact.manifest.contents
    assert (artifact.type, content.path) == ("model", "best.ckpt")


def test_nothing_else_is_sent(tiny, tmp_path, wandb_records):
    """Neither command line, paths, user, host, packages, commit, output, code, nor checkpoints."""
    args = [*tiny, "--wandb", "offline", "--run_dir", str(tmp_path / "hidden-directory/run")]
    args += ["--data.url", "https://user:secret@example.org/c.tar.gz"]
    assert main(["fit", *args]) == 0
    records = wandb_records(tmp_path)
    kinds = {record.WhichOneof("record_type") for record in records}
    assert kinds <= {"header", "run", "telemetry", "metric", "history", "summary", "stats", "exit", "files", "alert"}
    text = "\n".join(map(str, records))
    for secret in ("hidden-directory", "secret", str(Path.cwd()), f'"{getpass.getuser()}"', "lightning-cifar=="):
        assert secret not in text, secret
    assert not run_of(records).host
    assert not run_of(records).HasField("git")
    assert socket.gethostname() not in {one.strip('"') for one in text.split()}
    files = {
        file.name for file in tmp_path.glob("hidden-directory/run/wandb/offline-run-*/files/**/*") if file.is_file()
    }
    assert {Path(name).suffix for name in files} <= {".png"}


def test_the_environment_may_ask_for_more(tmp_path, monkeypatch, wandb_records):
    for name, value in {"PROJECT": "mine", "RUN_GROUP": "ours", "HOST": "here", "_DISABLE_META": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert "x_disable_meta" not in ours.settings()
    wandb.teardown()  # it reads its environment once
    ours.finish(ours.wandb_logger("offline", tmp_path, group="theirs"), failed=False)
    records = wandb_records(tmp_path)
    wandb.teardown()
    run = run_of(records)
    assert (run.project, run.run_group, run.host) == ("mine", "ours", "here")


def test_gone_on_with_its_rows_follow(tiny, tmp_path, wandb_records):
    run_dir = tmp_path / "run"
    assert main(["fit", *tiny, "--wandb", "offline", "--run_dir", str(run_dir)]) == 0
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "2"]) == 0
    first, second = sorted(run_dir.glob("wandb/offline-run-*"))
    before, after = (history(wandb_records(one)) for one in (first, second))
    assert run_of(wandb_records(first)).run_id == run_of(wandb_records(second)).run_id
    assert max(row["_step"] for row in before) < min(row["_step"] for row in after)
    steps = [[row["trainer/global_step"] for row in rows if "val/loss" in row] for rows in (before, after)]
    assert steps[0] < steps[1]


def test_checkpoints_without_wandb_are_a_mistake(tiny, tmp_path, capsys):
    assert main(["fit", *tiny, "--wandb_checkpoints", "--run_dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: --wandb_checkpoints uploads to W&B: add --wandb\n"


def test_test_tells_its_summary_and_shows_its_pictures(logged, tmp_path, monkeypatch, wandb_records):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    run_dir = tmp_path / "test"
    checkpoint = str(logged / "checkpoints/best.ckpt")
    assert main(["test", "--ckpt_path", checkpoint, "--wandb", "offline", "--run_dir", str(run_dir)]) == 0
    records, result = wandb_records(run_dir), json.loads((run_dir / "test.json").read_text())
    run = run_of(records)
    assert run.run_id != run_of(wandb_records(logged)).run_id  # offline, it is a run of its own, in the same group
    assert (run.run_group, run.job_type) == ("demo", "test")
    kept = summary(records)
    assert kept["test/accuracy"] == result["accuracy"]
    assert kept["test/calibration_error"] == result["calibration_error"]
    (row,) = history(records)
    (files,) = run_dir.glob("wandb/offline-run-*/files")
    assert (files / row["test/picture/path"]).read_bytes() == (run_dir / "test.png").read_bytes()
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    staged = {one.path: Path(one.local_path) for artifact in artifacts for one in artifact.manifest.contents}
    mistakes = json.loads(staged["test/mistakes.table.json"].read_text())
    columns = {name: [line[place] for line in mistakes["data"]] for place, name in enumerate(mistakes["columns"])}
    assert columns["label"] == [mistake["label"] for mistake in result["mistakes"]]
    assert (columns["image"][0]["width"], staged[columns["image"][0]["path"]].exists()) == (128, True)
    (table,) = files.glob("media/table/test/confusion_table_*.json")
    counts = {(true, guess): count for true, guess, count in json.loads(table.read_text())["data"]}
    assert list(counts.values()) == [count for line in result["confusion"] for count in line]
    (table,) = files.glob("media/table/test/classes_table_*.json")
    accuracies = [one["accuracy"] for one in result["per_class"].values()]
    assert [value for _, value in json.loads(table.read_text())["data"]] == accuracies
