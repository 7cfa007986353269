"""Faults that users reported in resumed runs: deleted files, lost checkpoints, steps or scores, mixed numbers."""

import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder

from lightning_cifar import CIFAR10DataModule, ImageClassifier, LastCheckpoint, Throughput, main
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint
from tests.run.checkpoints.test_resume import read_rows
from tests.trainer import make_quiet_trainer

CALLBACKS = "--trainer.callbacks"
SHORT = ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1", "--trainer.log_every_n_steps", "1"]


def fit(*args: object) -> int:
    return main(["fit", *map(str, args)])


def resume(run_dir: Path, *args: object) -> int:
    return fit("--resume", run_dir, *args)


def load_last(run_dir: Path) -> dict:
    return load_checkpoint(run_dir / "checkpoints/last.ckpt")


def state_of_model_checkpoint(content: dict) -> dict:
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    return state


# A stranger's run: what its checkpoint names is not deleted.


@pytest.mark.slow
@pytest.mark.parametrize(
    "named",
    [
        "checkpoints/../../victim",
        "checkpoints/last.ckpt",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("{}/victim", "local://{}/victim")),
    ],
)
def test_resume_deletes_only_files_of_its_own_run(trained, tmp_path, capsys, named):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").touch()
    path = named.format(tmp_path) if "{" in named else str(run_dir / named)
    last = load_last(run_dir)
    score = torch.tensor(0.0)
    state = state_of_model_checkpoint(last)
    state |= {"dirpath": str(run_dir / "checkpoints"), "best_model_score": score, "best_k_models": {path: score}}
    state |= {"best_model_path": path, "kth_best_model_path": path, "last_model_path": path}
    save_checkpoint(last, run_dir / "checkpoints/last.ckpt")
    assert resume(run_dir, "--trainer.max_epochs", "2", *SHORT) == 0
    assert (tmp_path / "victim/file").exists()
    assert (run_dir / "checkpoints/last.ckpt").exists()
    assert f"ignored: {path}, named by the checkpoint" in capsys.readouterr().out


# Checkpoints that are damaged, and a stop in the next save.


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*; trying the checkpoint before")
@pytest.mark.parametrize("damage", [b"half", pytest.param(b"", marks=pytest.mark.slow)])
def test_a_failed_save_keeps_the_only_good_checkpoint(trained, tmp_path, capsys, monkeypatch, damage):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    last, previous = run_dir / "checkpoints/last.ckpt", run_dir / "checkpoints/previous.ckpt"
    last.rename(previous)
    last.write_bytes(damage)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(torch, "save", fail)
            assert resume(run_dir, "--trainer.max_epochs", "2", *SHORT) == 1
        assert load_checkpoint(previous)["global_step"] == 2
    assert resume(run_dir) == 0
    assert load_last(run_dir)["global_step"] == 2 + 3
    assert "trying the checkpoint before" in capsys.readouterr().err


# The end of training within an epoch.


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert fit(*tiny, *SHORT, "--trainer.max_epochs", "2", "--run_dir", run_dir) == 0
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "more"),
    [
        pytest.param(["--trainer.max_steps", "5"], ["--trainer.max_steps", "6"], marks=pytest.mark.slow),
        (["--trainer.max_steps", "2"], ["--trainer.max_steps", "-1"]),
        pytest.param(["--trainer.max_time", "00:00:10:00"], ["--trainer.max_time", "null"], marks=pytest.mark.slow),
    ],
    ids=["max_steps in epoch 2", "max_steps in epoch 1", "max_time"],
)
def test_training_that_ended_within_an_epoch_is_resumed_there(tiny, tmp_path, monkeypatch, uninterrupted, end, more):
    def stop_at_step_4(callback, trainer, *_):
        trainer.should_stop |= "max_time" in end[0] and trainer.global_step == 4  # as `Timer` does

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_end", stop_at_step_4)
        assert fit(*tiny, *SHORT, "--trainer.max_epochs", "2", *end, "--run_dir", run_dir) == 0
    rows = (run_dir / "metrics.csv").read_bytes()
    assert "max_time" in end[0] or resume(run_dir) == 0  # nothing left to train: nothing changes
    assert (run_dir / "metrics.csv").read_bytes() == rows
    assert resume(run_dir, *more) == 0
    found, expected = load_last(run_dir), load_last(uninterrupted)
    assert found["global_step"] == expected["global_step"] == 6
    assert all(torch.equal(found["state_dict"][name], value) for name, value in expected["state_dict"].items())
    train_rows = [row for row in read_rows(run_dir) if "val/loss" not in row or row in read_rows(uninterrupted)]
    assert train_rows == read_rows(uninterrupted)
    assert len(read_rows(run_dir)) == len(read_rows(uninterrupted)) + 1  # the validation at the end that was none


# Where the directory lies, and how it is named.


@pytest.mark.slow
@pytest.mark.parametrize("move", [pytest.param(False, marks=pytest.mark.slow), True])
def test_best_checkpoint_survives_a_resume_by_another_path(tiny, tmp_path, capsys, move):
    assert fit(*tiny, *SHORT, "--run_dir", "run") == 0
    run_dir = tmp_path / "run"
    if move:
        run_dir = run_dir.rename(tmp_path / "moved")
    best, last = run_dir / "checkpoints/best.ckpt", load_last(run_dir)
    state_of_model_checkpoint(last)["best_k_models"] = {
        str(Path("run/checkpoints/best.ckpt").absolute()): torch.tensor(2.0)
    }
    save_checkpoint(last, run_dir / "checkpoints/last.ckpt")
    before = best.read_bytes()
    capsys.readouterr()
    assert resume(run_dir.absolute(), "--trainer.max_epochs", "2") == 0
    assert best.read_bytes() == before
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_best_checkpoint_whose_name_has_a_slash_survives_a_move(tiny, tmp_path, capsys):
    named = [f"{CALLBACKS}.monitor", "val/accuracy", f"{CALLBACKS}.mode", "max"]
    named += [f"{CALLBACKS}.filename", "{epoch}-{val/accuracy:.2f}"]
    assert fit(*tiny, *SHORT, CALLBACKS, "ModelCheckpoint", *named, "--run_dir", "run") == 0
    run_dir = Path("run").rename(tmp_path / "moved")
    last = load_last(run_dir)
    state = state_of_model_checkpoint(last)
    state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(2.0))
    save_checkpoint(last, run_dir / "checkpoints/last.ckpt")
    assert resume(run_dir, "--trainer.max_epochs", "2") == 0
    assert "ignored" not in capsys.readouterr().out
    assert [file.parent.name for file in (run_dir / "checkpoints").rglob("accuracy*")] == ["epoch=0-val"]


# Numbers of an epoch are its own.


@pytest.mark.slow
def test_ckpt_path_mixes_no_epochs(tiny):
    assert fit(*tiny, *SHORT, "--run_dir", "a") == 0
    for which in ("best", "last"):
        run_dir = Path(which)
        ckpt = Path("a/checkpoints") / f"{which}.ckpt"
        assert fit(*tiny, *SHORT, "--trainer.max_epochs", "2", "--ckpt_path", ckpt, "--run_dir", run_dir) == 0
        rows = read_rows(run_dir)
        steps = [float(row["train/loss_step"]) for row in rows if "train/loss_step" in row]
        (epoch,) = (float(row["train/loss_epoch"]) for row in rows if "train/loss_epoch" in row)
        assert epoch == pytest.approx(sum(steps) / len(steps))


# Files of a run that are damaged or not its own.


def drop(name: str):
    return lambda content: content.pop(name)


def damage_optimizer(content: dict) -> None:
    content["optimizer_states"][0]["param_groups"][0]["params"].pop()


def change_group(name: str, value: object):
    return lambda content: content["optimizer_states"][0]["param_groups"][0].update({name: value})


def change_moment(name: str, value: object):
    def change(content: dict) -> None:
        states = content["optimizer_states"][0]["state"]
        states[0] = {key: one for key, one in states[0].items() if key != name}
        states[0] |= {} if value is None else {name: value}

    return change


def change_count(content: dict) -> None:
    content["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"] = "x"


def damage_network(content: dict) -> None:
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name][:1]


def damage_random_state(content: dict) -> None:
    content["callbacks"]["LastCheckpoint"]["random"] = {"torch": torch.zeros(3)}


def change_seed(content: dict) -> None:
    content["callbacks"]["LastCheckpoint"]["random"]["torch"] = torch.Generator().manual_seed(7).get_state()


def change_state(name: str, value: object):
    return lambda content: content["callbacks"]["LastCheckpoint"].update({name: value})


def change_python_state(content: dict) -> None:
    content["callbacks"]["LastCheckpoint"]["random"]["python"] = 1


LOSS, LINES = "on_train_batch_end.train/loss", "number of lines of metrics.csv must be"
DAMAGES = {
    "has no state_dict": drop("state_dict"),
    "has no global_step": drop("global_step"),
    "has no pytorch-lightning_version": drop("pytorch-lightning_version"),
    "has no loops": drop("loops"),
    "does not fit this run: ValueError": damage_optimizer,
    "lr=str": change_group("lr", "x"),
    "does not fit this run: KeyError: 'betas'": lambda content: content["optimizer_states"][0]["param_groups"][0].pop(
        "betas"
    ),
    "does not fit this run: KeyError: 'exp_avg'": change_moment("exp_avg", None),
    "exp_avg in the optimiser's state has the shape (3,)": change_moment("exp_avg", torch.zeros(3)),
    "'list' object has no attribute 'shape'": change_moment("exp_avg_sq", [1]),
    "step in the optimiser's state has the shape (2,), not ()": change_moment("step", torch.ones(2)),
    "loops.fit_loop.epoch_progress.current.ready is a str, not a int": change_count,
    "does not fit this run: RuntimeError: Error(s) in loading state_dict": damage_network,
    "does not fit this run: ": damage_random_state,
    "the seed 7": change_seed,
    "fit this run: TypeError: cannot unpack": change_python_state,
    f"{LINES} a whole number, got 'x'": change_state("lines", "x"),
    f"{LINES} at least 0, got -5": change_state("lines", -5),
    "'NoneType' object has no attribute": change_state("metrics", None),
    "has no attribute `nope`": change_state("metrics", {"nope": {}}),
    "held_out_accuracy.tp is a str": change_state("metrics", {"held_out_accuracy": {"tp": "x"}}),
    "'NoneType' object is not iterable": change_state("sums", None),
    "'str' object has no attribute 'shape'": change_state("sums", {LOSS: {"value": "x"}}),
    "has the shape (3,), not ()": change_state("sums", {LOSS: {"value": torch.zeros(3)}}),
}


# A missing key, the optimiser, the network, a seed, a number and a metric: one of each kind.
QUICK = ("has no state_dict", "does not fit this run: V", "does not fit this run: R", "the seed", LINES, "has no attr")
LONG = (
    "has no global_step",
    "has no pytorch",
    "has no loops",
    "lr=str",
    "'list' object",
    "step in the",
    "held_out",
    "'str'",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            words,
            marks=pytest.mark.long if words.startswith(LONG) else [] if words.startswith(QUICK) else pytest.mark.slow,
        )
        for words in DAMAGES
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_in_one_line(trained, tmp_path, capsys, words):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    content = load_last(run_dir)
    DAMAGES[words](content)
    save_checkpoint(content, run_dir / "checkpoints/last.ckpt")
    config = (run_dir / "config.yaml").read_bytes()
    assert resume(run_dir, "--trainer.max_epochs", "2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "last.ckpt" in line
    assert words in line
    assert (run_dir / "config.yaml").read_bytes() == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("run.json", b"{", "run.json is damaged", marks=pytest.mark.slow),
        pytest.param("run.json", b"[1]", "run.json is damaged", marks=pytest.mark.slow),
        ("run.json", b'{"resumed": 3, "timings": {"fit_seconds": []}}', "run.json is damaged"),
        ("run.json", b'{"data": ["x"], "timings": {"fit_seconds": "9"}}', "run.json is damaged"),
        pytest.param("metrics.csv", b"\xff\xfe\n" * 9, "metrics.csv is damaged", marks=pytest.mark.slow),
        ("metrics.csv", b"epoch,step,train/loss\n0,a,b\n0,1,2,3,4\n", "metrics.csv is damaged"),
        ("metrics.csv", None, "metrics.csv has 0 of the "),
    ],
)
def test_damaged_files_of_a_run_do_not_stop_it(trained, tmp_path, capsys, name, content, words):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    (run_dir / name).unlink() if content is None else (run_dir / name).write_bytes(content)
    assert resume(run_dir, "--trainer.max_epochs", "2", *SHORT) == 0
    assert words in capsys.readouterr().out
    assert len(read_rows(run_dir)) > 3
    assert (run_dir / "run.json").read_text().startswith("{")


@pytest.mark.slow
def test_configured_csv_logger_keeps_its_rows(tiny):
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    assert fit(*tiny, *SHORT, *logger, "--run_dir", "run") == 0
    before = Path("logs/demo/run/metrics.csv").read_bytes()
    assert resume(Path("run"), "--trainer.max_epochs", "2") == 0
    after = Path("logs/demo/run/metrics.csv").read_bytes()
    assert after == Path("run/metrics.csv").read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)


@pytest.mark.slow
def test_learning_rate_finder_does_not_change_the_rate_of_a_resumed_run(tiny):
    assert fit(*tiny, *SHORT, "--run_dir", "run") == 0
    assert resume(Path("run"), "--trainer.max_epochs", "2", CALLBACKS, "LearningRateFinder") == 0
    assert load_last(Path("run"))["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-3


def test_a_run_does_not_start_from_the_exception_of_another(tiny, trained, capsys):
    Path("saved").mkdir()
    shutil.copy(trained / "checkpoints/last.ckpt", "saved/on_exception.ckpt")
    saves = [CALLBACKS, "OnExceptionCheckpoint", f"{CALLBACKS}.dirpath", "saved"]
    assert fit(*tiny, *SHORT, *saves, "--run_dir", "run") == 2
    assert "would start from saved/on_exception.ckpt of an earlier run" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_run_that_is_resumed_from_within_keeps_its_name(tiny, tmp_path, monkeypatch):
    """`--resume .` continues the log of a logger that has the run's name."""
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", tmp_path / "logs"]
    assert fit(*tiny, *SHORT, *logger, "--run_dir", "run") == 0
    monkeypatch.chdir("run")
    assert resume(Path("."), "--trainer.max_epochs", "2") == 0
    assert [file.relative_to(tmp_path) for file in (tmp_path / "logs").rglob("metrics.csv")] == [
        Path("logs/demo/run/metrics.csv")
    ]


@pytest.mark.slow
def test_a_trained_run_without_its_last_checkpoint_is_not_begun_anew(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    (run_dir / "checkpoints/last.ckpt").unlink()
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    assert resume(run_dir, "--trainer.max_epochs", "2") == 2
    words = f"{run_dir}/checkpoints has no last.ckpt, but the run has trained 2 steps: put it back, or start anew by"
    assert words in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    record = json.loads((run_dir / "run.json").read_text())
    del record["timings"]  # as of a run that was killed before its first checkpoint
    (run_dir / "run.json").write_text(json.dumps(record))
    assert resume(run_dir) == 0
    assert "training starts from the beginning" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*; trying the checkpoint before")
def test_a_resumed_run_follows_no_link_and_waits_for_no_pipe(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "mine.txt").write_text("mine")
    (run_dir / "hparams.yaml").unlink(missing_ok=True)
    (run_dir / "hparams.yaml").symlink_to(tmp_path / "mine.txt")
    (run_dir / "checkpoints/last.ckpt").rename(run_dir / "checkpoints/previous.ckpt")
    for name in ("run.json", "metrics.csv", "checkpoints/last.ckpt"):
        (run_dir / name).unlink(missing_ok=True)
        os.mkfifo(run_dir / name)
    assert resume(run_dir, "--trainer.max_epochs", "2", *SHORT) == 0
    assert "last.ckpt is not a file; trying the checkpoint before" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert load_last(run_dir)["global_step"] == 2 + 3


@pytest.mark.slow
@pytest.mark.parametrize("option", ["url", "archive"])
def test_the_source_of_the_data_may_change(trained, tmp_path, capsys, option):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    assert resume(run_dir, f"--data.{option}", "other") == 0
    assert f"changed: --data.{option} other, before None" in capsys.readouterr().out


@pytest.mark.slow
def test_a_complete_checkpoint_that_trains_nothing_is_named(tiny, trained, capsys):
    assert fit(*tiny, "--ckpt_path", trained, "--run_dir", "run") == 0
    words = "nothing left to train: the run of this checkpoint is complete; raise --trainer.max_epochs to train on"
    assert words in capsys.readouterr().out


@pytest.mark.slow
def test_fewer_epochs_than_were_trained_are_one_line(tiny, capsys):
    assert fit(*tiny, "--trainer.max_epochs", "3", "--run_dir", "run") == 0
    before = Path("run/config.yaml").read_bytes()
    fewer, again = ["--trainer.max_epochs", "2"], [*tiny, "--ckpt_path", "run/checkpoints/last.ckpt"]
    for options in (["--resume", "run", *fewer], [*again, *fewer, "--run_dir", "other"]):
        capsys.readouterr()
        assert fit(*options) == 2
        words = r"error: --trainer\.max_epochs 2: run/checkpoints/\w+\.ckpt is after epoch 3, set more\n"
        assert re.fullmatch(words, capsys.readouterr().err)
    assert Path("run/config.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_batch_size_that_was_found_is_kept_in_a_resumed_run(tiny, monkeypatch, capsys):
    found = []
    search = BatchSizeFinder.scale_batch_size

    def count(finder, trainer, module):
        search(finder, trainer, module)
        found.append(trainer.datamodule.hparams["batch_size"])

    monkeypatch.setattr(BatchSizeFinder, "scale_batch_size", count)
    finder = ["BatchSizeFinder", f"{CALLBACKS}.steps_per_trial", "1", f"{CALLBACKS}.init_val", "16"]
    options = [*SHORT, CALLBACKS, *finder, f"{CALLBACKS}.max_trials", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert fit(*tiny, *options, "--run_dir", "run") == 0
        assert resume(Path("run"), "--trainer.max_epochs", "2") == 0
    content = load_last(Path("run"))
    assert [content["datamodule_hyper_parameters"]["batch_size"]] == found
    content["datamodule_hyper_parameters"]["batch_size"] = "x"
    save_checkpoint(content, Path("run/checkpoints/last.ckpt"))
    assert resume(Path("run"), "--trainer.max_epochs", "3") == 2
    assert "the batch size must be a whole number, got 'x'" in capsys.readouterr().err


class Noisy(torch.optim.SGD):
    """As of Langevin dynamics: each step draws."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(torch.randn_like(parameter), alpha=1e-3)
        return loss


class NoisyClassifier(ImageClassifier):
    def configure_optimizers(self):
        optimizer = Noisy(super().configure_optimizers().param_groups)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]  # a schedule over epochs


class LineSearch(torch.optim.SGD):
    """Its steps need the closure that computes the loss."""

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        super().step()
        return loss


class SearchingClassifier(ImageClassifier):
    def configure_optimizers(self):
        return LineSearch(self.parameters(), 0.01, momentum=0.9)


def train_in_python(model: ImageClassifier, directory: str, steps: int, **options: object) -> dict:
    torch.manual_seed(0)
    trainer = make_quiet_trainer(
        max_steps=steps, default_root_dir=directory, callbacks=[LastCheckpoint()], enable_checkpointing=True,
        limit_train_batches=4, limit_val_batches=0, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, CIFAR10DataModule("digits", batch_size=20), **options)
    return load_checkpoint(Path(directory, "checkpoints/last.ckpt"))["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NoisyClassifier, SearchingClassifier])
def test_optimizers_of_subclasses_are_resumed_exactly(kind):
    """Also if their steps draw random numbers or need more than their state, and if a schedule has not begun."""
    straight, stopped = (kind(widths=(4,) * 5, learning_rate=0.01, num_classes=10) for _ in range(2))
    stopped.load_state_dict(straight.state_dict())
    expected = train_in_python(straight, "straight", 6)
    train_in_python(stopped, "stopped", 2)
    found = train_in_python(stopped, "stopped", 6, ckpt_path="stopped/checkpoints/last.ckpt", weights_only=True)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.slow
def test_too_little_memory_to_resume_is_not_a_damaged_checkpoint(trained, tmp_path, capsys, monkeypatch):
    def fail(_):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("lightning_cifar.run.checkpoints.resume.try_step", fail)
    assert resume(shutil.copytree(trained, tmp_path / "run"), "--trainer.max_epochs", "2") == 1
    assert "out of memory: lower --data.batch_size" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.csv", "run.json", "curves.png", "checkpoints"])
def test_a_file_in_place_of_a_directory_or_the_reverse_is_one_line(trained, tmp_path, capsys, name):
    place = shutil.copytree(trained, tmp_path / "run") / name
    if place.is_dir():
        shutil.rmtree(place)
        place.touch()
    else:
        place.unlink()
        place.mkdir()
    assert main(["fit", "--resume", str(tmp_path / "run"), "--trainer.max_epochs", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line in (f"error: {place}: {reason}" for reason in ("Is a directory", "Not a directory", "File exists"))
