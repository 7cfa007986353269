"""What is logged to W&B and what is hidden, read from the records of offline runs."""

import getpass
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from lightning_cifar import main
from lightning_cifar.run.records import wandb as wandb_logging


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory) -> Path:
    """Return the directory of a run of two epochs, logged offline with its checkpoint."""
    run_dir = tmp_path_factory.mktemp("logged") / "run"
    os.environ["WANDB_DATA_DIR"] = str(run_dir.parent / "staged")
    args = [*tiny, "--trainer.max_epochs", "2", "--wandb", "offline", "--wandb_checkpoints", "--run_dir", str(run_dir)]
    assert main(["fit", *args]) == 0
    del os.environ["WANDB_DATA_DIR"]
    return run_dir


def read_items(items) -> dict:
    """Return the keys and values of a record."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_history(records) -> list[dict]:
    return [read_items(record.history.item) for record in records if record.HasField("history")]


def read_summary(records) -> dict:
    found = {}
    for record in records:
        found |= read_items(record.summary.update)
    return found


def find_run(records):
    return next(record.run for record in records if record.HasField("run"))


@pytest.mark.slow
def test_metric_names_are_grouped(logged, wandb_records):
    names = {name for row in read_history(wandb_records(logged)) for name in row if not name.startswith("_")}
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


@pytest.mark.slow
def test_metrics_are_over_steps_and_the_summary_keeps_the_best(logged, wandb_records):
    records = wandb_records(logged)
    metrics = {
        record.metric.name or record.metric.glob_name: record.metric for record in records if record.HasField("metric")
    }
    assert metrics["*"].step_metric == "trainer/global_step"
    rows = read_history(records)
    steps = [row["trainer/global_step"] for row in rows]
    assert steps == sorted(steps)
    accuracies = [row["val/accuracy"] for row in rows if "val/accuracy" in row]
    assert len(accuracies) == 2
    assert read_summary(records)["val/accuracy"] == {"max": max(accuracies)}
    assert read_summary(records)["val/loss"] == {"min": min(row["val/loss"] for row in rows if "val/loss" in row)}


def test_summary_of_a_sweep_keeps_the_last_value(tmp_path, monkeypatch, wandb_records):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    logger = wandb_logging.start_wandb("offline", tmp_path)
    for accuracy in (0.9, 0.8):
        logger.log_metrics({"val/accuracy": accuracy}, step=1)
    wandb_logging.finish_wandb(logger, failed=True)
    records = wandb_records(tmp_path)
    assert (read_summary(records)["val/accuracy"], records[-1].exit.exit_code) == (0.8, 1)


@pytest.mark.slow
def test_run_has_name_group_tags_and_configuration(logged, wandb_records):
    run = find_run(wandb_records(logged))
    assert (run.display_name, run.run_group, list(run.tags), run.job_type) == ("demo/run", "demo", ["demo"], "fit")
    config = read_items(run.config.update)
    assert (config["recipe"], config["model"]["widths"], config["data"]["dataset"]) == (
        "demo",
        [4, 4, 8, 8, 8],
        "digits",
    )


def test_variables_of_the_user_name_the_run(tmp_path, monkeypatch, wandb_records):
    variables = {"NAME": "my/run", "TAGS": "paper,table 2", "RUN_GROUP": "mine", "JOB_TYPE": "debug"}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    about = {"name": "demo/run", "tags": ["demo"], "group": "demo", "job_type": "fit"}
    wandb_logging.finish_wandb(wandb_logging.start_wandb("offline", tmp_path, **about), failed=False)
    run = find_run(wandb_records(tmp_path))
    found = [run.display_name, ",".join(run.tags), run.run_group, run.job_type]
    assert found == [*variables.values()]


@pytest.mark.slow
def test_curves_and_checkpoint_are_uploaded(logged, wandb_records):
    records = wandb_records(logged)
    row = next(row for row in read_history(records) if "train/curves/path" in row)
    (file,) = logged.glob("wandb/offline-run-*/files/" + row["train/curves/path"])
    assert file.read_bytes() == (logged / "curves.png").read_bytes()
    (artifact,) = (record.artifact for record in records if record.HasField("artifact"))
    (content,) = artifact.manifest.contents
    assert (artifact.type, content.path) == ("model", "best.ckpt")


@pytest.mark.slow
def test_private_data_is_not_sent(tiny, tmp_path, wandb_records):
    """No command line, paths, user, host, packages, commit, output, code or checkpoints."""
    args = [*tiny, "--wandb", "offline", "--run_dir", str(tmp_path / "hidden-directory/run")]
    args += ["--data.url", "https://user:secret@example.org/c.tar.gz"]
    assert main(["fit", *args]) == 0
    records = wandb_records(tmp_path)
    kinds = {record.WhichOneof("record_type") for record in records}
    assert kinds <= {"header", "run", "telemetry", "metric", "history", "summary", "stats", "exit", "files", "alert"}
    text = "\n".join(map(str, records))
    for secret in ("hidden-directory", "secret", str(Path.cwd()), f'"{getpass.getuser()}"', "lightning-cifar=="):
        assert secret not in text, secret
    assert not find_run(records).host
    assert not find_run(records).HasField("git")
    assert socket.gethostname() not in {word.strip('"') for word in text.split()}
    files = {
        file.name for file in tmp_path.glob("hidden-directory/run/wandb/offline-run-*/files/**/*") if file.is_file()
    }
    assert {Path(name).suffix for name in files} <= {".png"}


@pytest.mark.slow
def test_environment_overrides_settings(tmp_path, monkeypatch, wandb_records):
    import wandb

    for name, value in {"PROJECT": "mine", "RUN_GROUP": "ours", "HOST": "here", "_DISABLE_META": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert "x_disable_meta" not in wandb_logging.make_settings()
    wandb.teardown()  # wandb reads its environment once
    wandb_logging.finish_wandb(wandb_logging.start_wandb("offline", tmp_path, group="theirs"), failed=False)
    records = wandb_records(tmp_path)
    wandb.teardown()
    run = find_run(records)
    assert (run.project, run.run_group, run.host) == ("mine", "ours", "here")


@pytest.mark.slow
def test_rows_of_a_resumed_run_follow_the_earlier_ones(tiny, tmp_path, wandb_records):
    run_dir = tmp_path / "run"
    assert main(["fit", *tiny, "--wandb", "offline", "--run_dir", str(run_dir)]) == 0
    assert main(["fit", "--resume", str(run_dir), "--trainer.max_epochs", "2"]) == 0
    first, second = sorted(run_dir.glob("wandb/offline-run-*"))
    before, after = (read_history(wandb_records(directory)) for directory in (first, second))
    assert find_run(wandb_records(first)).run_id == find_run(wandb_records(second)).run_id
    assert max(row["_step"] for row in before) < min(row["_step"] for row in after)
    steps = [[row["trainer/global_step"] for row in rows if "val/loss" in row] for rows in (before, after)]
    assert steps[0] < steps[1]


def test_wandb_checkpoints_needs_wandb(tiny, tmp_path, capsys):
    assert main(["fit", *tiny, "--wandb_checkpoints", "--run_dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: --wandb_checkpoints uploads to W&B: add --wandb\n"


@pytest.mark.slow
@pytest.mark.parametrize("content", ["[" * 100_000, None], ids=["nested too deep", "a pipe"])
def test_a_damaged_record_of_the_tested_run_names_no_group(logged, tmp_path, wandb_records, content):
    run_dir = shutil.copytree(logged, tmp_path / "run")
    (run_dir / "run.json").unlink()
    os.mkfifo(run_dir / "run.json") if content is None else (run_dir / "run.json").write_text(content)
    checkpoint, directory = str(run_dir / "checkpoints/best.ckpt"), tmp_path / "test"
    assert main(["test", "--ckpt_path", checkpoint, "--wandb", "offline", "--run_dir", str(directory)]) == 0
    assert find_run(wandb_records(directory)).run_group == "test"


@pytest.mark.slow
def test_test_logs_summary_plot_and_tables(logged, tmp_path, monkeypatch, wandb_records):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    run_dir = tmp_path / "test"
    checkpoint = str(logged / "checkpoints/best.ckpt")
    assert main(["test", "--ckpt_path", checkpoint, "--wandb", "offline", "--run_dir", str(run_dir)]) == 0
    records, result = wandb_records(run_dir), json.loads((run_dir / "test.json").read_text())
    run = find_run(records)
    assert run.run_id != find_run(wandb_records(logged)).run_id  # offline, a test is a new run in the same group
    assert (run.run_group, run.job_type) == ("demo", "test")
    summary = read_summary(records)
    assert summary["test/accuracy"] == result["accuracy"]
    assert summary["test/calibration_error"] == result["calibration_error"]
    (row,) = read_history(records)
    (files,) = run_dir.glob("wandb/offline-run-*/files")
    assert (files / row["test/figure/path"]).read_bytes() == (run_dir / "test.png").read_bytes()
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    staged = {file.path: Path(file.local_path) for artifact in artifacts for file in artifact.manifest.contents}
    mistakes = json.loads(staged["test/mistakes.table.json"].read_text())
    columns = {name: [line[index] for line in mistakes["data"]] for index, name in enumerate(mistakes["columns"])}
    assert columns["label"] == [mistake["label"] for mistake in result["mistakes"]]
    assert (columns["image"][0]["width"], staged[columns["image"][0]["path"]].exists()) == (128, True)
    (table,) = files.glob("media/table/test/confusion_table_*.json")
    counts = {(true, guess): count for true, guess, count in json.loads(table.read_text())["data"]}
    assert list(counts.values()) == [count for line in result["confusion"] for count in line]
    (table,) = files.glob("media/table/test/classes_table_*.json")
    recalls = [scores["recall"] for scores in result["per_class"].values()]
    assert [value for _, value in json.loads(table.read_text())["data"]] == recalls
