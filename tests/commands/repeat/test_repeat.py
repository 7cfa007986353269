"""`repeat` on the command line, on digits: seeds equal runs of `fit` and `test`, in one process or several."""

import csv
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_cifar import ImageClassifier, Throughput
from lightning_cifar.commands.repeat import command as command_module
from lightning_cifar.run.settings.options import RECIPES
from tests.command_line import run

FROM_START = "{}: repeat trains every seed from the start; --run_dir resumes an earlier repeat"


@pytest.mark.slow
def test_a_seed_equals_fit_and_test(repeated, capsys, tmp_path, tiny):
    assert run(capsys, "fit", *tiny, "--seed_everything", "1", "--run_dir", tmp_path / "fit")[0] == 0
    checkpoint = tmp_path / "fit/checkpoints/last.ckpt"
    assert run(capsys, "test", "--ckpt_path", checkpoint, "--run_dir", tmp_path / "test")[0] == 0
    tested, seed = (
        json.loads((tmp_path / "test/test.json").read_text()),
        json.loads((repeated / "seed1.json").read_text()),
    )
    names = ("accuracy", "accuracy_without_tta", "loss", "calibration_error")
    assert {name: seed[name] for name in names} == {name: tested[name] for name in names}
    assert json.loads((repeated / "seed0.json").read_text())["loss"] != seed["loss"]


def read_predictions(directory):
    with (directory / "predictions.csv").open(newline="") as opened:
        return [row["prediction"] for row in csv.DictReader(opened)]


def test_the_result_lists_every_seed(repeated):
    result = json.loads((repeated / "repeat.json").read_text())
    runs = [json.loads((repeated / f"seed{seed}.json").read_text()) for seed in range(2)]
    assert result["seeds"] == runs
    assert result["n"] == result["accuracy"]["n"] == 2
    assert json.loads((repeated / "seed1/test.json").read_text())["accuracy"] == runs[1]["accuracy"]
    assert result["accuracy"]["mean"] == pytest.approx(sum(one["accuracy"] for one in runs) / 2)
    predictions = [read_predictions(repeated / f"seed{seed}") for seed in range(2)]
    assert result["agreement"] == pytest.approx(np.equal(*predictions).mean())
    assert all(one["fit_seconds"] > one["train_seconds"] > 0 for one in runs)
    assert result["fit_seconds"]["median"] > result["train_seconds"]["median"]
    assert all(one["run"]["versions"]["torch"] for one in runs)


def test_training_time_and_fit_time_are_printed(repeated, capsys, tiny):
    _, out, _ = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", repeated)
    seconds = json.loads((repeated / "seed0.json").read_text())["fit_seconds"]
    assert f", fit time {seconds:.2f} s, from an earlier start" in out
    assert [line.split(",")[0] for line in out.splitlines() if ", s " in line] == ["training time", "fit time"]


@pytest.mark.slow
def test_a_seed_without_a_result_resumes_and_others_are_not_trained_again(repeated, capsys, tiny):
    before = json.loads((repeated / "seed1.json").read_text())
    (repeated / "seed1.json").unlink()
    status, out, _ = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", repeated)
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("seed")] == ["seed 0", "seed 1"]
    assert ", from an earlier start" in out.split("seed 1")[0]
    after = json.loads((repeated / "seed1.json").read_text())
    same = ("loss", "directory", "train_seconds", "fit_seconds", "steps")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.slow
def test_other_settings_are_refused(repeated, tmp_path, capsys, tiny):
    """With a missing seed, and without."""
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    message = f"error: --model.learning_rate 0.5: the seeds in {run_dir} are trained with 0.001"
    before = (run_dir / "repeat.json").read_text()
    for n in ("3", "2"):
        status, _, err = run(capsys, "repeat", "--n", n, *tiny, "--model.learning_rate", "0.5", "--run_dir", run_dir)
        assert (status, err.splitlines()[-1]) == (2, message)
    assert not (run_dir / "seed2").exists()
    assert (run_dir / "repeat.json").read_text() == before
    assert run(capsys, "repeat", "--n", "1", *tiny, "--run_dir", run_dir)[0] == 0


@pytest.mark.slow
def test_seeds_that_start_from_other_weights_are_refused(repeated, trained, capsys, tiny):
    """With a missing seed, and without."""
    message = f"error: --init_from {trained}: the seeds in {repeated} are trained with None"
    for n in ("3", "2"):
        status, _, err = run(capsys, "repeat", "--n", n, *tiny, "--init_from", trained, "--run_dir", repeated)
        assert (status, err.splitlines()[-1]) == (2, message)
    assert not (repeated / "seed2").exists()


@pytest.mark.slow
def test_a_seed_that_is_tested_again_has_the_same_weights_and_times(tmp_path, tiny, capsys):
    """Also if they are an average, and if training ended within an epoch."""
    average = [
        "--trainer.callbacks",
        "lightning.pytorch.callbacks.EMAWeightAveraging",
        "--trainer.callbacks.decay",
        "0.9",
    ]
    args = ["repeat", "--n", "1", *tiny, *average, "--trainer.max_epochs", "2", "--trainer.max_steps", "3"]
    results = []
    for _ in range(2):
        assert run(capsys, *args, "--run_dir", tmp_path / "run")[0] == 0
        results.append(json.loads((tmp_path / "run/seed0.json").read_text()))
        (tmp_path / "run/seed0.json").unlink()
    assert results[0]["loss"] == results[1]["loss"]
    with (tmp_path / "run/seed0/metrics.csv").open(newline="") as opened:
        first, second = [float(one) for row in csv.DictReader(opened) if (one := row["time/epoch_seconds"])]
    assert first < results[1]["train_seconds"] <= results[0]["train_seconds"] == pytest.approx(first + second)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param("[activation,sum,pool]", marks=pytest.mark.slow),
        pytest.param("[activation,sum,norm,pool]", marks=pytest.mark.long),
    ],
)
def test_the_last_checkpoint_has_the_averaged_weights(tmp_path, tiny, capsys, order):
    """Those that a seed is tested with. Without batch norm, Lightning's callback averages after the last epoch."""
    average = ["--trainer.callbacks", "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.01"]
    average += ["--trainer.callbacks.swa_epoch_start", "1", "--trainer.max_epochs", "3"]
    args = ["repeat", "--n", "1", *tiny, *average, "--model.order", order, "--run_dir", tmp_path / "run"]
    assert run(capsys, *args)[0] == 0
    assert run(capsys, "test", "--ckpt_path", tmp_path / "run/seed0/checkpoints/last.ckpt", "--run_dir", "test")[0] == 0
    losses = [json.loads(Path(name).read_text())["loss"] for name in ("run/seed0.json", "test/test.json")]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_seed_that_was_only_begun_is_trained(tmp_path, tiny, capsys):
    """A process was killed before it had written the configuration, or writes it now."""
    (tmp_path / "run/seed0").mkdir(parents=True)
    assert run(capsys, "repeat", "--n", "1", *tiny, "--run_dir", tmp_path / "run")[0] == 0


@pytest.mark.slow
def test_a_seed_of_lower_precision_is_tested_in_float32(tmp_path, tiny, capsys):
    args = ["repeat", "--n", "1", *tiny, "--trainer.precision", "bf16-true", "--run_dir", tmp_path / "run"]
    assert run(capsys, *args)[0] == 0
    assert run(capsys, "test", "--ckpt_path", tmp_path / "run/seed0/checkpoints/last.ckpt", "--run_dir", "test")[0] == 0
    losses = [json.loads(Path(name).read_text())["loss"] for name in ("run/seed0.json", "test/test.json")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["file:", "a:b", "a\tb"])
def test_directories_that_look_like_a_url_are_refused(capsys, tmp_path, tiny, name):
    before = {*tmp_path.iterdir()}
    for command in ("repeat", "sweep"):
        status, _, err = run(capsys, command, *tiny, "--run_dir", name)
        assert (status, err.startswith(f"error: --run_dir {name!r} names no local directory")) == (2, True)
    assert {*tmp_path.iterdir()} == before


def test_each_seed_records_the_command_that_trains_only_it(repeated, tiny):
    command = json.loads((repeated / "seed1/run.json").read_text())["command"]
    assert command == ["python", "-m", "lightning_cifar", "fit", *tiny, "--seed_everything", "1"]


def test_missing_predictions_are_named(repeated, tmp_path, capsys, tiny):
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    file = run_dir / "seed0/predictions.csv"
    file.unlink()
    status, _, err = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", run_dir)
    remedy = "delete seed0.json, and run the same command to test this seed again"
    assert (status, err) == (2, f"error: {file} cannot be read (No such file or directory): {remedy}\n")


@pytest.mark.slow
def test_precision_is_measured_once_for_all_seeds(tmp_path, tiny, capsys):
    """The first process measures; others use its result, even if they would measure another."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / ".precision").write_text("bf16-mixed")  # of a process that has chosen, but not started training
    assert run(capsys, "repeat", "--n", "1", *tiny, "--trainer.precision", "auto", "--run_dir", run_dir)[0] == 0
    assert json.loads((run_dir / "seed0.json").read_text())["run"]["precision"] == "bf16-mixed"
    run_dir = tmp_path / "other"
    assert run(capsys, "repeat", "--n", "1", *tiny, "--trainer.precision", "auto", "--run_dir", run_dir)[0] == 0
    chosen = (run_dir / ".precision").read_text()
    assert json.loads((run_dir / "seed0.json").read_text())["run"]["precision"] == chosen


def test_a_failed_start_leaves_no_directory(tmp_path, capsys):
    args = ["repeat", "--data.dataset", "folder", "--data.root", tmp_path / "none"]
    before = sorted(tmp_path.iterdir())
    for options in ([], ["--run_dir", tmp_path / "new/run", "--output", tmp_path / "results/new/result.json"]):
        assert run(capsys, *args, *options)[0] == 2
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_two_processes_share_the_seeds(capsys, tmp_path, tiny, start):
    command = ["repeat", *tiny, "--run_dir", tmp_path / "run"]
    children = [start(*command, "--n", 1, "--first_seed", seed) for seed in (0, 1)]
    assert [child.wait() for child in children] == [0, 0]
    status, out, _ = run(capsys, *command, "--n", "2")
    assert (status, out.count(", from an earlier start"), out.count("pairs of seeds agree")) == (0, 2, 1)
    assert "counted too" not in out
    assert "counted too, of earlier starts: seed 1\n" in run(capsys, *command, "--n", "1")[1]


@pytest.mark.slow
def test_a_stop_at_the_end_of_a_seed_says_how_to_resume(tmp_path, tiny, capsys, monkeypatch):
    def stop(result):
        raise SystemExit(143)  # as SIGTERM does

    monkeypatch.setattr(command_module, "format_seed", stop)
    status, _, err = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", tmp_path / "run")
    words = f"stopped in seed 0; to resume: the same command with --run_dir {tmp_path / 'run'}\ninterrupted\n"
    assert (status, err) == (143, words)


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
def test_an_interrupted_seed_resumes(tmp_path, tiny, capsys, monkeypatch):
    run_dir, on_train_batch_end = tmp_path / "run", Throughput.on_train_batch_end
    args = ["repeat", "--n", "1", *tiny, "--trainer.max_epochs", "3", "--run_dir"]

    def stop_at_step_3(callback, trainer, *batch):
        on_train_batch_end(callback, trainer, *batch)
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_end", stop_at_step_3)
        status, _, err = run(capsys, *args, run_dir)
    assert status == 130
    assert f"stopped in seed 0; to resume: the same command with --run_dir {run_dir}" in err
    assert not (run_dir / "seed0.json").exists()
    status, out, _ = run(capsys, *args, run_dir)
    assert (status, "resuming from" in out) == (0, True)
    assert json.loads((run_dir / "seed0.json").read_text())["steps"] == 3 * 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--n", "0"], "--n must be at least 1, got 0"),
        (["--first_seed", "-1"], "--first_seed must be in [0, 4294967295], got -1"),
        (
            ["--first_seed", "4294967295", "--n", "2"],
            "--first_seed and --n: the last seed must be in [0, 4294967295], got 4294967296",
        ),
        (["--seed_everything", "3"], "--seed_everything: repeat sets the seeds; name the first by --first_seed"),
        (["--ckpt_path", "x"], FROM_START.format("--ckpt_path")),
        (["--resume", "x"], FROM_START.format("--resume")),
        (["--recipe", "fats"], f"no recipe 'fats': did you mean fast? There are {', '.join(RECIPES)}"),
        (["--compare", "a", "b", "--recipe", "fast"], "--compare takes two files and no other option, got --recipe"),
    ],
)
def test_bad_input_is_one_line(capsys, args, message):
    assert run(capsys, "repeat", *args) == (2, "", f"error: {message}\n")


def test_unwritable_paths_are_named(capsys, tmp_path, tiny):
    file = tmp_path / "file"
    file.write_text("")
    for run_dir, why in ((file, "File exists"), (file / "run", "Not a directory")):
        message = f"error: --run_dir {run_dir}: {why}; name another directory\n"
        assert run(capsys, "repeat", *tiny, "--run_dir", run_dir) == (2, "", message)
    status, _, err = run(capsys, "repeat", *tiny, "--run_dir", tmp_path / "run", "--output", file / "result.json")
    assert (status, err) == (
        2,
        f"error: --output {file / 'result.json'}: cannot write to {file}: File exists; name another file\n",
    )
    status, _, err = run(capsys, "repeat", *tiny, "--run_dir", tmp_path / "run", "--output", tmp_path)
    assert (status, err) == (2, f"error: --output {tmp_path} is not a file: name a new file, or one to overwrite\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["barebones", "fast_dev_run"])
def test_trials_without_a_record_are_refused(capsys, tmp_path, tiny, option):
    for command in ("repeat", "sweep"):
        status, _, err = run(capsys, command, *tiny, f"--trainer.{option}", "true", "--run_dir", tmp_path / command)
        what = {"repeat": "seed", "sweep": "trial"}[command]
        assert status == 2
        assert err == f"error: --trainer.{option} True: nothing would be recorded; a {what} needs it off\n"
        assert not (tmp_path / command).exists()


@pytest.mark.parametrize("option", ["--print_model", "--print_config", "--wandb_checkpoints"])
def test_options_that_only_fit_has_are_refused(capsys, tmp_path, tiny, option):
    for command in ("repeat", "sweep"):
        status, _, err = run(capsys, command, *tiny, option, "--run_dir", tmp_path / "run")
        assert (status, err) == (2, f"error: {option} does not go with {command}: use it with fit\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_options_without_effect_get_a_line_once(capsys, tmp_path, tiny):
    ignored = ["--model.warmup", "0.3", "--trainer.limit_test_batches", "1"]
    for command, n in (("repeat", "--n"), ("sweep", "--n_trials")):
        _, out, _ = run(capsys, command, *tiny, *ignored, n, "2", "--run_dir", tmp_path / command)
        assert out.count("note: --model.warmup has no effect: the schedule is constant\n") == 1
        assert out.count("note: --trainer.limit_test_batches has no effect: it goes with test\n") == 1


def test_several_devices_are_refused(capsys, tmp_path, tiny):
    status, _, err = run(capsys, "repeat", *tiny, "--trainer.devices", "2", "--run_dir", tmp_path / "run")
    message = "error: --trainer.devices 2: a seed is trained on one device; distribute the seeds by --first_seed\n"
    assert (status, err) == (2, message)


def test_a_directory_with_other_files_is_refused(capsys, tmp_path, tiny):
    (tmp_path / "mine").write_text("")
    status, _, err = run(capsys, "repeat", *tiny, "--run_dir", tmp_path)
    assert (status, err) == (2, f"error: --run_dir {tmp_path} is not empty: name a new or empty directory\n")


def test_the_precision_of_a_sweep_survives_a_repeat_that_is_refused(capsys, tmp_path, tiny):
    for name in ("sweep.db", ".precision"):
        (tmp_path / name).write_text("32-true")
    assert run(capsys, "repeat", *tiny, "--run_dir", tmp_path)[0] == 2
    assert (tmp_path / ".precision").read_text() == "32-true"


def test_a_damaged_configuration_of_a_seed_is_named(capsys, tmp_path, tiny):
    (tmp_path / "seeds/seed0").mkdir(parents=True)
    (tmp_path / "seeds/seed0/config.yaml").write_text("model: [")
    status, _, err = run(capsys, "repeat", "--n", "1", *tiny, "--run_dir", tmp_path / "seeds")
    assert status == 2
    assert "seeds/seed0/config.yaml is damaged" in err


@pytest.mark.slow
def test_seeds_that_diverge_are_reported_and_do_not_end_the_others(tmp_path, tiny, capsys, monkeypatch):
    step = ImageClassifier.training_step

    def diverge(model, batch, index):
        outputs = step(model, batch, index)
        return outputs | {"loss": outputs["loss"] * (float("nan") if torch.initial_seed() == 1 else 1)}

    monkeypatch.setattr(ImageClassifier, "training_step", diverge)
    args = ["repeat", "--n", "3", *tiny, "--run_dir", tmp_path / "run"]
    for _ in range(2):
        status, out, err = run(capsys, *args)
        words = "1 of 3 seeds diverged, not included in these statistics: 1"
        assert (status, err.splitlines()[-1].startswith(f"error: {words}; seed 1 diverged: the loss is NaN")) == (
            3,
            True,
        )
        assert words in out.splitlines()
        assert [line.split(":")[0] for line in out.splitlines() if line.startswith("seed ")] == [
            "seed 0", "seed 1 diverged", "seed 2"
        ]  # fmt: skip
        result = json.loads((tmp_path / "run/repeat.json").read_text())
        assert ([one["seed"] for one in result["seeds"]], result["n"]) == ([0, 2], 2)
        assert [one["seed"] for one in result["diverged"]] == [1]
    assert "from an earlier start" in out
    (tmp_path / "run/seed0.json").unlink()
    (tmp_path / "run/seed2.json").unlink()
    status, _, err = run(capsys, "repeat", "--n", "1", "--first_seed", "1", *args[3:])
    assert (status, err.splitlines()[-1].startswith("error: every seed diverged; seed 1 diverged: the loss")) == (
        3,
        True,
    )
