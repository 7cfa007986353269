"""`sweep` on the command line, on digits: trials equal runs of `fit`, and a stopped sweep resumes."""

import contextlib
import csv
import errno
import fcntl
import io
import json
import shlex
import signal
from functools import partial

import optuna
import pytest
import yaml
from optuna.study import _optimize

from lightning_cifar import errors, main
from lightning_cifar.commands.sweep.search import Search
from lightning_cifar.commands.sweep.space import format_options, parse_distribution
from lightning_cifar.commands.sweep.study import open_study
from lightning_cifar.run.records.throughput import Throughput
from tests.children import Trap, call_each, set_attributes
from tests.command_line import run

SPACE = ("--search", "model.learning_rate=log:1e-4:1e-2", "--search", "data.crop_padding=1,2")
WORDS = {"model.learning_rate": "0.0001 to 0.01, logarithmic", "data.crop_padding": "1, 2"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny):
    """Directory of a sweep of two trials, stopped in the first and resumed; the output of both commands."""
    run_dir = tmp_path_factory.mktemp("swept") / "run"
    args = ["sweep", *tiny, *SPACE, "--n_trials", "2", "--run_dir", str(run_dir)]
    on_train_batch_end, outputs = Throughput.on_train_batch_end, []

    def stop_at_step_1(self, trainer, *args):
        on_train_batch_end(self, trainer, *args)
        if trainer.global_step == 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_end", stop_at_step_1)
        outputs.append(capture(args, 143))
    outputs.append(capture(args, 0))
    return run_dir, outputs


def capture(args, status):
    """Run a command that must end with ``status``; return standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(args) == status
    return out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_a_stopped_sweep_resumes_within_the_trial(swept):
    run_dir, [(_, err), (out, second_err)] = swept
    assert err == f"stopped in trial 0; to resume: the same command with --run_dir {run_dir}\ninterrupted\n"
    assert f"resuming from {run_dir}/trial0/checkpoints/last.ckpt, step 1" in out
    assert second_err == ""
    assert {path.name for path in run_dir.glob("trial*")} == {"trial0", "trial2", "trials.csv"}


@pytest.mark.slow
def test_a_sweep_that_is_stopped_has_the_results_of_the_trials_before(tmp_path, tiny, capsys, monkeypatch):
    on_train_start, starts = Throughput.on_train_start, []

    def stop_in_the_second_trial(self, *args):
        on_train_start(self, *args)
        starts.append(self)
        if len(starts) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Throughput, "on_train_start", stop_in_the_second_trial)
    status, out, _ = run(capsys, "sweep", *tiny, *SPACE, "--n_trials", "2", "--run_dir", tmp_path / "run")
    assert status == 130, out
    result = json.loads((tmp_path / "run/sweep.json").read_text())
    assert [one["trial"] for one in result["trials"]] == [0]
    assert shlex.split(result["fit"])[3] == "fit"
    assert len((tmp_path / "run/trials.csv").read_text().splitlines()) == 2  # with the header


@pytest.mark.slow
@pytest.mark.parametrize("is_told", [False, True])
def test_a_sweep_stopped_at_the_end_of_a_trial_resumes(tmp_path, tiny, capsys, monkeypatch, is_told):
    """Optuna's clean-up fails then, which hides Ctrl-C; a trial that has its result is not trained again."""
    args = ["sweep", *tiny, *SPACE, "--n_trials", "2", "--run_dir", tmp_path / "run"]
    tell = _optimize._tell_with_warning

    def stop(**options):
        if is_told:
            tell(**options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_optimize, "_tell_with_warning", stop)
        status, _, err = run(capsys, *args)
    words = f"stopped in trial 0; to resume: the same command with --run_dir {tmp_path / 'run'}"
    assert (status, err) == (130, f"{words}\ninterrupted\n")
    status, out, _ = run(capsys, *args)
    trials = json.loads((tmp_path / "run" / "sweep.json").read_text())["trials"]
    assert (status, len({trial["directory"] for trial in trials})) == (0, 2), out


@pytest.mark.slow
def test_the_result_lists_every_trial_and_the_best_command(swept, tiny, capsys):
    run_dir, _ = swept
    result = json.loads((run_dir / "sweep.json").read_text())
    trials = result["trials"]
    assert (result["n"], result["space"], sorted(one["trial"] for one in trials)) == (2, WORDS, [1, 2])
    assert [one["accuracy"] for one in trials] == sorted((one["accuracy"] for one in trials), reverse=True)
    (first,) = (one for one in trials if one["directory"] == "trial0")
    assert first["values"] == {"model.learning_rate": 0.001, "data.crop_padding": 2}  # the recipe's values
    assert all(one["epochs"] == 1 and one["fit_seconds"] > one["train_seconds"] > 0 for one in trials)
    with (run_dir / "trials.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [float(row["model.learning_rate"]) for row in rows] == [
        one["values"]["model.learning_rate"] for one in trials
    ]
    command = shlex.split(result["fit"])
    assert command == ["python", "-m", "lightning_cifar", "fit", *tiny, *format_options(trials[0]["values"])]
    assert main([*command[3:], "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["crop_padding"] == trials[0]["values"]["data.crop_padding"]
    for name in ("history", "slice"):
        assert (run_dir / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_trial_equals_fit_with_its_values(swept, tiny, tmp_path, capsys):
    best = json.loads((swept[0] / "sweep.json").read_text())["trials"][0]
    assert run(capsys, "fit", *tiny, *format_options(best["values"]), "--run_dir", tmp_path / "fit")[0] == 0
    assert json.loads((tmp_path / "fit/run.json").read_text())["metrics"]["val/accuracy"] == best["accuracy"]


@pytest.mark.slow
def test_few_values_are_tried_once_each(tmp_path, tiny, capsys):
    """Also if some were tried before, and if the first trial has others than the recipe's."""
    sweep = ["sweep", *tiny, "--search", "data.crop_padding=1:3", "--search", "model.gate=relu,softmax"]
    run_dir = tmp_path / "run"
    for count, trained in ((2, 2), (9, 6)):
        status, out, _ = run(capsys, *sweep, "--n_trials", str(count), "--run_dir", run_dir)
        assert status == 0, out
        assert ("trials: 6, one for each combination of values" in out) is (count == 9)
        trials = json.loads((run_dir / "sweep.json").read_text())["trials"]
        assert len(trials) == len({json.dumps(one["values"]) for one in trials}) == trained
    assert run(capsys, *sweep, "--run_dir", run_dir)[0] == 0  # 20 trials, of which none is left


@pytest.mark.slow
def test_other_settings_and_other_spaces_are_refused(swept, tiny, capsys):
    run_dir, _ = swept
    args = ("sweep", *tiny, "--n_trials", "9", "--run_dir", run_dir)
    status, _, err = run(capsys, *args, *SPACE, "--model.dropout", "0.1")
    assert status == 2
    assert err.splitlines()[-1].startswith("error: --model.dropout 0.1: the trials in ")
    status, _, err = run(capsys, *args, *SPACE, "--seed_everything", "1")
    assert (status, err.splitlines()[-1].startswith("error: --seed_everything 1: the trials in ")) == (2, True)
    status, _, err = run(capsys, *args, *SPACE[:2])
    message = f"data.crop_padding is fixed here, but searched over 1, 2 in {run_dir}/sweep.db: name another --run_dir"
    assert (status, err) == (2, f"error: {message}\n")
    before = (run_dir / "sweep.json").read_text()
    complete = ("sweep", *tiny, "--n_trials", "2", "--run_dir", run_dir, *SPACE)
    status, _, err = run(capsys, *complete, "--model.dropout", "0.1")  # also if no trial is left to train
    assert (status, err.splitlines()[-1].startswith("error: --model.dropout 0.1: the trials in ")) == (2, True)
    assert run(capsys, *complete)[0] == 0  # the result is printed again
    assert (run_dir / "sweep.json").read_text() == before


@pytest.mark.slow
def test_batch_sizes_of_few_batches_are_no_other_settings(tmp_path, capsys):
    """The interval of logging follows them: 23 batches of 64 images, three of 512."""
    (tmp_path / "few.yaml").write_text(
        "data: {dataset: digits, batch_size: 64}\nmodel: {widths: [2, 2, 2, 2, 2]}\ntrainer: {max_epochs: 1}\n"
    )
    args = ["--config", tmp_path / "few.yaml", "--search", "data.batch_size=64,512"]
    status, out, _ = run(capsys, "sweep", *args, "--n_trials", "3", "--run_dir", tmp_path / "run")
    assert (status, "refused" in out) == (0, False), out
    begun = [line for line in out.splitlines() if line.startswith("trial ") and ": --data.batch_size" in line]
    assert {line.split()[-1] for line in begun} == {"64", "512"}


@pytest.mark.slow
def test_pruning_uses_validation_images_only(tmp_path, tiny, capsys):
    (tmp_path / "run").mkdir()
    good = optuna.create_trial(
        value=1.0,
        params={"model.learning_rate": 1e-3, "data.crop_padding": 2},
        distributions={
            "model.learning_rate": parse_distribution("log:1e-4:1e-2"),
            "data.crop_padding": parse_distribution("1,2"),
        },
        intermediate_values=dict.fromkeys(range(4), 1.0),
    )
    open_study(tmp_path / "run/sweep.db", WORDS).add_trials([good] * 5)
    recipe = tmp_path / "watches_the_test_set.yaml"
    recipe.write_text("data: {held_out: test}\ntrainer: {limit_val_batches: 0}\n")
    args = [*tiny, "--config", recipe, "--trainer.max_epochs", "4", *SPACE, "--run_dir", tmp_path / "run"]
    status, out, _ = run(capsys, "sweep", *args, "--n_trials", "6")
    assert status == 0
    assert "the recipe holds out no validation images: this sweep sets --data.held_out val" in out
    assert "trial 5: pruned after epoch 2: " in out
    trial = tmp_path / "run/trial5"
    assert yaml.safe_load((trial / "config.yaml").read_text())["data"]["held_out"] == "val"
    assert "test/" not in (trial / "metrics.csv").read_text()
    assert json.loads((tmp_path / "run/sweep.json").read_text())["trials"][-1]["ended"] == "pruned"


@pytest.mark.slow
def test_failing_values_end_only_their_trial(tmp_path, tiny, capsys):
    (tmp_path / "run").mkdir()
    study = open_study(tmp_path / "run/sweep.db", {"model.learning_rate": "0.001, 1e+30", "model.mixup": "0, -1"})
    for rate, mixup in ((1e30, 0), (1e-3, -1), (1e-3, 0)):
        study.enqueue_trial({"model.learning_rate": rate, "model.mixup": mixup})
    args = ["--search", "model.learning_rate=1e-3,1e30", "--search", "model.mixup=0,-1", "--n_trials", "3"]
    status, out, _ = run(capsys, "sweep", *tiny, *args, "--run_dir", tmp_path / "run")
    trials = json.loads((tmp_path / "run/sweep.json").read_text())["trials"]
    assert (status, [(one["trial"], one["ended"]) for one in trials]) == (
        0,
        [(2, "complete"), (0, "diverged"), (1, "refused")],
    )
    assert "trial 1: refused: mixup must be at least 0, got -1" in out


@pytest.mark.slow
def test_values_that_are_refused_first_are_not_tried_again_and_again(tmp_path, tiny, capsys):
    """In a sweep whose other trials were trained; a process ends with the first, as it does for a missing folder."""
    (tmp_path / "run").mkdir()
    study = open_study(tmp_path / "run/sweep.db", {"model.mixup": "0, -1"})
    study.set_user_attr("typed", tiny)
    study.enqueue_trial({"model.mixup": -1})
    args = ["--search", "model.mixup=0,-1", "--n_trials", "3", "--run_dir", tmp_path / "run"]
    assert run(capsys, "sweep", *tiny, *args)[0] == 2
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.FAIL]


@pytest.mark.slow
def test_processes_share_the_trials_and_take_over_those_of_a_killed_one(tmp_path, tiny, start):
    run_dir = tmp_path / "run"
    args = ["sweep", *tiny, *SPACE, "--n_trials", "4", "--trainer.max_epochs", "3", "--run_dir", run_dir]
    args += ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", "0"]
    impatient = partial(set_attributes, "lightning_cifar.commands.sweep.study", HEARTBEAT=1, GRACE=4)
    kill = Trap("lightning_cifar.train.classifier:ImageClassifier.training_step", 3, signal.SIGKILL)
    first, second = start(*args, prepare=partial(call_each, impatient, kill.set)), start(*args, prepare=impatient)
    assert first.wait() == 128 + signal.SIGKILL, first.output.read_text()
    third = start(*args, prepare=impatient)
    assert [second.wait(), third.wait()] == [0, 0]
    out = [child.output.read_text() for child in (second, third)]
    result = json.loads((run_dir / "sweep.json").read_text())
    assert result["n"] == len({one["directory"] for one in result["trials"]}) == 4
    assert "resuming from" in "".join(out)
    assert all("trial " in text for text in out)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--n_trials", "0"], "--n_trials must be at least 1, got 0"),
        (
            ["--ckpt_path", "x"],
            "--ckpt_path: sweep trains every trial from the start; --run_dir resumes an earlier sweep",
        ),
        (
            ["--data.held_out", "test"],
            "--data.held_out test: a sweep selects by validation images only; use val",
        ),
        (
            ["--recipe", "dem"],
            "no recipe 'dem': did you mean demo? There are accurate, demo, fast, fast94, finetune, gpu94, report",
        ),
        (["--search", "model.dropuot=0:1"], "no option --model.dropuot: did you mean --model.dropout?"),
        (
            ["--search", "x"],
            "--search x: write NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=A,B,C, with a name such as model.learning_rate",
        ),
        (["--search", "model.dropout=0.5:0"], "--search model.dropout=0.5:0: LOW must be below HIGH, got 0.5 and 0"),
        (
            ["--search", "model.dropout=0:a"],
            "--search model.dropout=0:a: a range is two finite numbers, LOW:HIGH or log:LOW:HIGH",
        ),
        (
            ["--search", "model.dropout=0:inf"],
            "--search model.dropout=0:inf: a range is two finite numbers, LOW:HIGH or log:LOW:HIGH",
        ),
        (
            ["--search", "model.dropout=log:0:1"],
            "--search model.dropout=log:0:1: LOW of a logarithmic range must be above 0, got 0",
        ),
        (
            ["--search", "model.dropout=0.5"],
            "--search model.dropout=0.5: a list needs at least two values, all different",
        ),
        (
            ["--search", "data.val_size=50,500"],
            "--search data.val_size=50,500: trials that differ in data.val_size cannot be compared; "
            "search another option",
        ),
        (
            ["--search", "model.dropout=0:0.5", "--search", "model.dropout=0,1"],
            "--search model.dropout=0,1: model.dropout is searched twice; remove one of them",
        ),
        (
            ["--search", "model.dropout=0:0.5", "--model.dropout", "0.1"],
            "--model.dropout is given and also searched by --search model.dropout=...: remove one of them",
        ),
        (
            ["--model.learning_rate", "0.1", "--data.batch_size", "64"],
            "learning rate and batch size are not left to search: name the options by --search",
        ),
        (
            ["--trainer.limit_val_batches", "0"],
            "--trainer.limit_val_batches 0: a sweep selects by validation images; leave it out",
        ),
        (["--config=no.yaml"], "--config no.yaml: no such file"),
        (["--config", "no.yaml"], "--config no.yaml: no such file"),
    ],
)
def test_bad_input_is_one_line(capsys, args, message):
    assert run(capsys, "sweep", *args) == (2, "", f"error: {message}\n")


@pytest.mark.slow
def test_trials_start_from_trained_weights(trained, image_folder, capsys, tmp_path):
    data = ["--data.dataset", "folder", "--data.root", image_folder, "--data.held_out", "val"]
    start = ["--init_from", trained, "--trainer.max_epochs", "1"]
    status, out, err = run(capsys, "sweep", "--n_trials", "1", *start, *data, "--run_dir", "sweep")
    assert (status, err) == (0, "")
    assert "the last layer is new, for 2 classes" in out
    # `fit` chooses the batch size of a folder.
    assert [*json.loads((tmp_path / "sweep/sweep.json").read_text())["space"]] == ["model.learning_rate"]


def test_the_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    message = "error: sweep needs the extra: pip install 'lightning-cifar[sweep]'\n"
    assert run(capsys, "sweep", "--recipe", "demo") == (2, "", message)


@pytest.mark.slow
def test_files_other_than_a_study_of_sweep_are_refused(capsys, tmp_path):
    database = tmp_path / "sweep.db"
    args = ("sweep", "--recipe", "demo", "--run_dir", tmp_path)
    (tmp_path / "mine").write_text("")
    assert run(capsys, *args) == (2, "", f"error: --run_dir {tmp_path} is not empty: name a new or empty directory\n")
    database.write_bytes(b"no database " * 100)
    assert run(capsys, *args) == (2, "", f"error: {database} cannot be used: file is not a database\n")
    database.unlink()
    optuna.create_study(storage=f"sqlite:///{database}", study_name="mine")
    message = f"{database} holds another study, 'mine': name another --run_dir"
    assert run(capsys, *args) == (2, "", f"error: {message}\n")
    status, _, err = run(capsys, "sweep", "--recipe", "demo", "--run_dir", tmp_path / "mine/below")
    assert (status, err) == (
        2,
        f"error: --run_dir {tmp_path / 'mine/below'}: Not a directory; name another directory\n",
    )


@pytest.mark.slow
def test_an_error_in_every_trial_ends_the_sweep(capsys, tmp_path, tiny):
    args = ("sweep", *tiny, *SPACE, "--run_dir", tmp_path / "run", "--data.dataset", "folder", "--data.root", "none")
    status, _, err = run(capsys, *args)
    assert (status, len(err.splitlines())) == (2, 1)


@pytest.mark.slow
def test_a_refused_first_trial_leaves_no_sweep(tiny, capsys, tmp_path):
    """The corrected command may search other values in the same directory."""
    for run_dir in (["--run_dir", tmp_path / "run"], []):
        args = ["sweep", *tiny, "--n_trials", "1", "--search", "model.gate=none,nothing", *run_dir]
        status, _, err = run(capsys, *args)
        assert (status, err.startswith("error: --model.gate no")) == (2, True)
        assert not {*tmp_path.iterdir()} & {tmp_path / "run", tmp_path / "runs"}


@pytest.mark.parametrize("name", ["a?b", "a{b}"])
def test_directories_that_the_url_of_a_database_cannot_name_are_refused(tiny, capsys, tmp_path, name):
    status, _, err = run(capsys, "sweep", *tiny, *SPACE, "--run_dir", tmp_path / name)
    assert (status, err) == (2, f"error: --run_dir {tmp_path / name}: use no question mark and no braces\n")


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_can_hold_a_sweep(tmp_path, monkeypatch, code):
    """As it can hold a run; SQLite's locks are others."""

    def fail(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", fail)
    search = Search([], [], {"model.dropout": parse_distribution("0:0.5")}, tmp_path / "sweep.db", pruning=False)
    with search.lock:
        assert search.lock.is_locked
