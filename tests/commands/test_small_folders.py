"""Folders of few images: the batch size that is chosen where none was set, and a line about too few steps."""

import json
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_cifar import ImageClassifier, main
from lightning_cifar.run.job import Job, choose_batch_size
from lightning_cifar.train.checkpoint import load_checkpoint

NETWORK = ["--model.widths", "[2,2,2,2,2]", "--trainer.log_every_n_steps", "1", "--trainer.limit_train_batches", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """400 images of two classes to train on, and 4 to test on."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(256, size=(404, 32, 32, 3)).astype(np.uint8)
    for number, image in enumerate(pixels):
        file = root / ("train" if number < 400 else "test") / "ab"[number % 2] / f"{number}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return root


def fit(folder: Path, *options: str, run_dir: str = "run") -> int:
    data = ["--data.dataset", "folder", "--data.root", str(folder), *NETWORK]
    return main(["fit", *data, *options, "--run_dir", run_dir])


def read_batch_size(run_dir: str = "run") -> int:
    stored = load_checkpoint(Path(run_dir, "checkpoints/last.ckpt"))["datamodule_hyper_parameters"]["batch_size"]
    assert yaml.safe_load(Path(run_dir, "config.yaml").read_text())["data"]["batch_size"] == stored
    return stored


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [pytest.param("report", marks=pytest.mark.slow), "fast"])
def test_a_batch_size_that_fits_is_chosen_and_kept(folder, capsys, recipe):
    """By a resumed run and a run on its configuration too, which print nothing of it."""
    assert fit(folder, "--recipe", recipe, "--trainer.max_epochs", "1", "--trainer.max_steps", "-1") == 0
    steps = {"report": 7, "fast": 6}[recipe]  # fast leaves out the last batch, of 16
    line = f"batch size 64: 400 images make {steps} steps an epoch; --data.batch_size sets another"
    assert line in capsys.readouterr().out.splitlines()
    assert read_batch_size() == 64
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "2"]) == 0
    assert main(["fit", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    assert "batch size" not in capsys.readouterr().out
    assert read_batch_size() == read_batch_size("again") == 64


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--data.batch_size", "300"], ["--data.batch_size=300"], ["--config", "mine.yaml"]])
def test_a_batch_size_that_was_set_is_kept(folder, capsys, option):
    Path("mine.yaml").write_text("data: {batch_size: 300}\n")
    assert fit(folder, *option, "--trainer.max_epochs", "1") == 0
    assert "batch size" not in capsys.readouterr().out
    assert read_batch_size() == 300


@pytest.mark.slow
def test_a_configuration_without_a_batch_size_does_not_set_it(folder, capsys):
    Path("mine.yaml").write_text("recipe: report\nmodel: {dropout: 0.1}\ntrainer: {max_epochs: 1}\n")
    assert fit(folder, "--config", "mine.yaml") == 0
    assert "batch size 64: 400 images make 7 steps an epoch" in capsys.readouterr().out
    assert read_batch_size() == 64


@pytest.mark.slow
def test_a_batch_is_never_larger_than_the_folder(image_folder):
    """Of 18 images; the recipe leaves out a batch that is not full."""
    assert fit(image_folder, "--recipe", "fast", "--trainer.max_epochs", "1") == 0
    assert read_batch_size() == 16


@pytest.mark.parametrize(
    ("dataset", "images", "chosen"),
    [
        *(("folder", *one) for one in ((1, 1), (60, 32), (2559, 64), (2560, 128), (4999, 128), (5000, 250))),
        ("digits", 60, 250),
    ],
)
def test_batch_size_by_number_of_images(dataset, images, chosen):
    hparams = {"dataset": dataset, "batch_size": 250, "drop_last": False}
    data = SimpleNamespace(train=range(images), hparams=hparams)
    job = SimpleNamespace(data=data, set_options=set(), settings={"data": {}})
    job.has_set = partial(Job.has_set, job)
    job.leaves_to_data = partial(Job.leaves_to_data, job)
    choose_batch_size(job)
    assert hparams["batch_size"] == chosen


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "interval"), [("report", 7), ("fast94", 6)])
def test_few_batches_are_logged_in_every_epoch(folder, recipe, interval):
    """Lightning would warn, which is an error in these tests."""
    short = ["--model.widths", "[2,2,2,2,2]", "--trainer.max_epochs", "1", "--trainer.max_steps", "-1"]
    data = ["--data.dataset", "folder", "--data.root", str(folder), "--trainer.precision", "32"]
    assert main(["fit", "--recipe", recipe, *data, *short, "--run_dir", "run"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["log_every_n_steps"] == interval


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["--trainer.limit_train_batches", "--trainer.overfit_batches"])
def test_a_few_batches_of_any_dataset_are_logged_in_every_epoch(capsys, limit):
    """Also in each seed of `repeat`, and when that is started again, without training."""
    options = ["--model.widths", "[2,2,2,2,2]", "--trainer.max_epochs", "1", limit, "3", "--run_dir", "run"]
    command = ["repeat", "--recipe", "demo", "--n", "1", *options]
    assert (main(command), main(command)) == (0, 0)
    assert yaml.safe_load(Path("run/seed0/config.yaml").read_text())["trainer"]["log_every_n_steps"] == 3
    assert "from an earlier start" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_goes_on_keeps_its_batch_size(folder):
    assert fit(folder, "--data.batch_size", "20", "--trainer.max_epochs", "1") == 0
    go_on = ["--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_epochs", "2"]
    assert fit(folder, *go_on, run_dir="longer") == 0
    assert read_batch_size("longer") == 20


@pytest.mark.slow
def test_of_equal_validation_accuracies_the_latest_is_best(image_folder):
    """With few validation images, all may be right from the first epoch on."""
    options = ["--model.widths", "[2,2,2,2,2]", "--data.batch_size", "6", "--model.learning_rate", "1e-9"]
    data = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.held_out", "val"]
    assert main(["fit", *data, *options, "--trainer.max_epochs", "3", "--run_dir", "run"]) == 0
    best = load_checkpoint(Path("run/checkpoints/best.ckpt"))
    (state,) = (state for key, state in best["callbacks"].items() if key.startswith("ModelCheckpoint"))
    assert (best["epoch"], float(state["best_model_score"])) == (2, pytest.approx(2 / 3))


@pytest.mark.slow
def test_few_held_out_images_give_no_temperature(image_folder):
    options = ["--model.widths", "[2,2,2,2,2]", "--data.batch_size", "6", "--trainer.max_epochs", "1"]
    data = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.held_out", "val"]
    assert main(["fit", *data, *options, "--run_dir", "run"]) == 0
    assert main(["test", "--ckpt_path", "run", "--data.root", str(image_folder), "--run_dir", "test"]) == 0
    assert json.loads(Path("test/test.json").read_text())["temperature"] is None


@pytest.mark.slow
def test_seeds_share_the_batch_size_and_are_resumed(folder):
    args = ["--data.dataset", "folder", "--data.root", str(folder), *NETWORK, "--trainer.max_epochs", "1"]
    for count in ("1", "2"):
        assert main(["repeat", "--n", count, *args, "--run_dir", "seeds"]) == 0
    assert read_batch_size("seeds/seed0") == read_batch_size("seeds/seed1") == 64


@pytest.mark.slow
def test_too_few_steps_get_a_line(folder, capsys):
    few = "a network needs more than 2 epochs of 6 steps: --trainer.max_epochs 17 makes 102 steps"
    assert fit(folder, "--recipe", "fast") == 0
    assert f"note: {few}" in capsys.readouterr().out.splitlines()
    for options in (["--recipe", "fast", "--trainer.max_epochs", "1"], []):  # by default, 30 epochs
        assert fit(folder, *options, "--trainer.max_time", "00:00:00:01", run_dir=f"run{len(options)}") == 0
    assert "a network needs more" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_complete_repeat_of_a_folder_is_summarised_again(image_folder, capsys):
    options = ["--data.dataset", "folder", "--data.root", str(image_folder), "--recipe", "demo", *NETWORK[:2]]
    words = ["repeat", "--n", "1", *options, "--trainer.max_epochs", "1", "--run_dir", "repeated"]
    for words_of_start in ("", ", from an earlier start"):
        assert main(words) == 0, capsys.readouterr().err
        (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("seed 0: "))
        assert line.endswith(f" s{words_of_start}")
    _, *rows = Path("repeated/seed0/predictions.csv").read_text().splitlines()
    assert all((image_folder / row.split(",")[-1]).is_file() for row in rows)  # the images by their files
    assert main([*words, "--trainer.log_every_n_steps", "7"]) == 0  # changes no weight
    capsys.readouterr()
    for option, value in (("data.batch_size", "5"), ("data.cutout", "3")):
        assert main([*words, f"--{option}", value]) == 2
        assert f"error: --{option} {value}: the seeds in repeated are trained with" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
@pytest.mark.parametrize("command", ["repeat", pytest.param("sweep", marks=pytest.mark.slow)])
def test_a_seed_or_trial_that_is_resumed_keeps_what_its_images_decided(image_folder, capsys, monkeypatch, command):
    """Batch size and interval of logging, as if it had not been stopped."""
    count = {"repeat": ["--n", "1"], "sweep": ["--n_trials", "1", "--search", "model.dropout=0.1,0.2"]}[command]
    options = ["--data.dataset", "folder", "--data.root", str(image_folder), "--model.widths", "[2,2,2,2,2]"]
    options += ["--trainer.max_epochs", "3", "--data.held_out", "val"]
    args = [command, "--recipe", "demo", *count, *options, "--run_dir", "series"]
    with monkeypatch.context() as patched:
        step = ImageClassifier.training_step

        def stop(*batch):
            signal.raise_signal(signal.SIGINT)
            return step(*batch)

        patched.setattr(ImageClassifier, "training_step", stop)
        assert main(args) == 130
    (file,) = Path("series").glob("*/config.yaml")
    before = yaml.safe_load(file.read_text())
    assert before["data"]["batch_size"] == 16
    assert main(args) == 0, capsys.readouterr().err
    assert "changed: " not in capsys.readouterr().out
    assert yaml.safe_load(file.read_text()) == before
