"""Configured loggers: what they log, directories that they cannot write to, logs of another run, servers that fail."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from lightning_utilities.core.imports import RequirementCache

from lightning_cifar import Throughput, main
from tests.command_line import run

LOGGER = "--trainer.logger"


def fit(tiny: list[str], logger: str, save_dir: str, run_dir: str, *args: str) -> int:
    return main(["fit", *tiny, LOGGER, logger, f"{LOGGER}.save_dir", save_dir, "--run_dir", run_dir, *args])


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["CSVLogger", pytest.param("TensorBoardLogger", marks=pytest.mark.slow)])
def test_two_runs_of_one_name_do_not_share_a_log(tiny, tmp_path, capsys, logger):
    assert fit(tiny, logger, "logs", "a/run") == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert fit(tiny, logger, "logs", "b/run") == 2
    assert "is of another run: delete it" in capsys.readouterr().err.splitlines()[-1]
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert fit(tiny, logger, "logs", "b/run", "--trainer.fast_dev_run", "true") == 0
    assert main(["fit", "--resume", "a/run", "--trainer.max_epochs", "2"]) == 0


def test_csv_logger_does_not_write_metrics_of_the_run(tiny, capsys):
    assert fit(tiny, "CSVLogger", "run", "run", f"{LOGGER}.name", "", f"{LOGGER}.version", "") == 2
    assert "would write run/metrics.csv" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_directory_that_cannot_be_made_is_named_before_training(tiny, capsys, logger):
    Path("file").touch()
    assert fit(tiny, logger, "file/logs", "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot make file/logs" in line
    assert not Path("run").exists()


class Server:
    """An MLflow server: its runs by identifier, and whether it answers."""

    def __init__(self) -> None:
        self.runs, self.answers = dict[str, SimpleNamespace](), True

    def __call__(self, uri: str) -> "Server":
        return self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        if not self.answers:
            raise RuntimeError("the server does not answer")
        return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

    def create_run(self, experiment_id: str, tags: dict[str, str]) -> SimpleNamespace:
        number = f"run{len(self.runs)}"
        info = SimpleNamespace(run_id=number, experiment_id=experiment_id, lifecycle_stage="active")
        self.runs[number] = SimpleNamespace(info=info, metrics=[])
        return self.runs[number]

    def get_run(self, run_id: str) -> SimpleNamespace:
        if not self.answers or run_id not in self.runs:
            raise RuntimeError(f"Run '{run_id}' not found")
        return self.runs[run_id]

    def log_batch(self, run_id: str, metrics: Sequence[object] = (), params: Sequence[object] = ()) -> None:
        if self.get_run(run_id).info.lifecycle_stage != "active":
            raise RuntimeError(f"The run {run_id} must be in 'active' lifecycle_stage.")
        self.runs[run_id].metrics.extend(metrics)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.get_run(run_id)


@pytest.fixture
def server(monkeypatch):
    """What Lightning's logger uses of the package mlflow, on such a server."""
    made = Server()
    for name, content in {
        "mlflow": {"set_tracking_uri": lambda _: None},
        "mlflow.tracking": {"MlflowClient": made, "context": SimpleNamespace()},
        "mlflow.entities": {"Metric": SimpleNamespace, "Param": SimpleNamespace},
        "mlflow.utils": {},
        "mlflow.utils.mlflow_tags": {"MLFLOW_RUN_NAME": "name"},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", True)
    return made


def resume(capsys, epochs: int, *args: str) -> str:
    """Train the run on until it has this number of epochs; return what was printed."""
    capsys.readouterr()
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", str(epochs), *args]) == 0
    return "".join(capsys.readouterr())


@pytest.mark.slow
def test_a_resumed_run_continues_its_mlflow_run_or_begins_another(tiny, server, capsys):
    """Also if it was resumed without the logger, and if its run was deleted, as in the web interface, or is gone."""
    mlflow = (LOGGER, "MLFlowLogger")
    assert fit(tiny, "MLFlowLogger", "mlruns", "run") == 0
    first = len(server.runs["run0"].metrics)
    resume(capsys, 2, LOGGER, "false")
    assert len(server.runs["run0"].metrics) == first > 0
    resume(capsys, 3, *mlflow)
    assert len(server.runs["run0"].metrics) > first
    server.runs["run0"].info.lifecycle_stage = "deleted"
    assert "note: the MLflow run run0 was deleted, or does not answer: a new one is used" in resume(capsys, 4)
    del server.runs["run0"]
    resume(capsys, 5)
    assert ([*server.runs], server.runs["run1"].metrics != []) == (["run1"], True)
    del server.runs["run1"]
    assert "the MLflow run run1 was deleted" in resume(capsys, 6)


@pytest.mark.slow
@pytest.mark.filterwarnings("always:MLFlow")
def test_a_server_that_goes_away_ends_no_run(tiny, server, capsys, monkeypatch):
    server.answers = False
    assert fit(tiny, "MLFlowLogger", "mlruns", "none") == 0
    assert capsys.readouterr().err.count("warning: MLFlowLogger logs nothing of this run: the server does not") == 1
    server.answers = True
    assert fit(tiny, "MLFlowLogger", "mlruns", "run") == 0
    server.answers = False
    assert "warning: MLFlowLogger logs nothing of this run: the server does not answer\n" in resume(capsys, 2)
    server.answers = True
    assert "note: " not in resume(capsys, 3)  # the same run
    monkeypatch.setattr(Throughput, "on_train_epoch_end", lambda *_: setattr(server, "answers", False))
    assert resume(capsys, 4).count("warning: MLFlow failed and logs no more of this run: Run 'run0' not found\n") == 1
    assert [*server.runs] == ["run0"]


@pytest.mark.slow
def test_tensorboard_logger_gets_every_metric(capsys, tmp_path, tiny):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", tmp_path / "tb"]
    assert run(capsys, "fit", *tiny, *logger, "--run_dir", tmp_path / "run")[0] == 0
    (file,) = (tmp_path / "tb/demo/run").glob("events.out.tfevents.*")
    events = reader.EventAccumulator(str(file))
    events.Reload()
    assert {*events.Tags()["scalars"], "step"} - {"hp_metric"} == read_metric_names(tmp_path / "run")
    assert run(capsys, "fit", "--resume", tmp_path / "run", "--trainer.max_epochs", 2)[0] == 0
    assert len([*(tmp_path / "tb").rglob("events.out.tfevents.*")]) == len([*file.parent.glob("events*")]) == 2


def read_metric_names(run_dir):
    return {*(run_dir / "metrics.csv").read_text().splitlines()[0].split(",")}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::FutureWarning:mlflow", "ignore::DeprecationWarning:mlflow"
)  # raised in mlflow's code
def test_mlflow_logger_gets_every_metric(capsys, tmp_path, tiny, monkeypatch):
    pytest.importorskip("mlflow")
    logger = ["--trainer.logger", "MLFlowLogger", "--trainer.logger.save_dir", tmp_path / "ml"]
    status, _, err = run(capsys, "fit", *tiny, *logger)
    if status:  # newer versions need this variable to write files
        (line,) = err.splitlines()
        assert (status, "`MLFLOW_ALLOW_FILE_STORE=true`" in line) == (2, True)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert run(capsys, "fit", *tiny, *logger, "--run_dir", tmp_path / "run")[0] == 0
    (directory,) = (tmp_path / "ml").glob("*/*/metrics")
    files = {str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()}
    assert {*files, "step"} == read_metric_names(tmp_path / "run")
    status, _, _ = run(
        capsys, "fit", "--resume", tmp_path / "run", "--trainer.max_epochs", "2", "--data.root", "elsewhere"
    )
    assert (status, [*(tmp_path / "ml").glob("*/*/metrics")]) == (0, [directory])  # the same run
    losses = (directory / "train/loss_epoch").read_text().splitlines()
    assert len(losses) == 2


@pytest.mark.parametrize(
    ("name", "missing"), [("MLFlowLogger", "_MLFLOW_AVAILABLE"), ("TensorBoardLogger", "_TENSORBOARD_AVAILABLE")]
)
def test_logger_of_a_missing_package_names_the_extra(capsys, tiny, monkeypatch, name, missing):
    for module in ("lightning.pytorch.loggers.mlflow", "lightning.fabric.loggers.tensorboard"):
        monkeypatch.setattr(f"{module}.{missing}", RequirementCache("absent-package"), raising=False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    status, _, err = run(capsys, "fit", *tiny, "--trainer.logger", name, "--trainer.logger.save_dir", "logs")
    words = f"error: --trainer: {name} needs the extra: pip install 'lightning-cifar[{name[:-6].lower()}]'\n"
    assert (status, err) == (2, words)
