"""The command line, called as `main([...])` and as a process."""

import csv
import errno
import hashlib
import inspect
import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import Callback
from PIL import Image

from lightning_cifar import CIFAR10DataModule, ImageClassifier, Throughput
from lightning_cifar.commands.cli import main
from lightning_cifar.run.process.exit_status import explain
from lightning_cifar.run.settings.options import RECIPES
from lightning_cifar.sources import download
from tests.trainer import make_quiet_trainer


def run(capsys, *args):
    """Run a command; return its exit status, lines of standard output and lines of standard error."""
    status = main([str(argument) for argument in args])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err.splitlines()


def read_config(capsys, *args):
    status, out, _ = run(capsys, *args, "--print_config")
    assert status == 0
    return yaml.safe_load("\n".join(out))


# Configurations and help.


def test_fit_defaults_to_the_recipe_report(capsys):
    config = read_config(capsys, "fit")
    assert config["recipe"] == "report"
    assert config["trainer"]["max_epochs"] == 30
    assert (config["model"]["learning_rate"], config["model"]["weight_decay"]) == (0.001, 0.0001)
    assert (config["data"]["dataset"], config["data"]["held_out"]) == ("cifar10", "test")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_parses_and_names_its_command(capsys, recipe):
    assert read_config(capsys, "fit", "--recipe", recipe)["recipe"] == recipe
    title, command, *_ = RECIPES[recipe].read_text().splitlines()
    assert title.startswith(f"# {recipe}: ")
    start = (
        "--init_from pretrained --data.dataset folder --data.root DIR" if recipe == "finetune" else f"--recipe {recipe}"
    )
    assert command in (f"#   python -m lightning_cifar fit {start}", f"#   make {recipe}")


def test_flags_override_files_and_files_override_the_recipe(capsys, tmp_path):
    file = tmp_path / "custom.yaml"
    file.write_text("data: {batch_size: 33, val_size: 44}")
    config = read_config(capsys, "fit", "--recipe", "demo", "--config", file, "--data.val_size", "55")
    assert (config["data"]["dataset"], config["data"]["batch_size"], config["data"]["val_size"]) == ("digits", 33, 55)


@pytest.mark.parametrize("args", ["predict --images --help", "export --format --help", "repeat --n --help"])
def test_help_is_printed_after_incomplete_options(args, capsys):
    status, out, err = run(capsys, *args.split())
    assert status == 0
    assert out[0].startswith(f"usage: python -m lightning_cifar {args.split()[0]}")
    assert not err


def test_print_model_prints_layers_and_flops(capsys):
    status, out, _ = run(capsys, "fit", "--recipe", "demo", "--print_model")
    assert (status, max(map(len, out)) <= 80) == (0, True)
    rows = {line.split()[0]: line.split() for line in out}
    assert rows["backbone.0"][1:-1] == ["GatedBlock", "[1,", "16,", "16,", "16]", "1,388"]
    assert rows["backbone.0.branches.2"][-1] == f"{2 * (3 * 3 * 3) * 16 * 32 * 32:,}"
    assert rows["network"][-2] == "772,146"
    assert not Path("runs").exists()


# Files and output of a run.


def test_run_directory_has_every_file(trained):
    files = {str(file.relative_to(trained)) for file in trained.rglob("*") if file.is_file()}
    wanted = {"config.yaml", "metrics.csv", "curves.png", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "run.json"}
    assert files >= wanted
    record = json.loads((trained / "run.json").read_text())
    with (trained / "metrics.csv").open() as opened:
        logged = [float(row["val/accuracy"]) for row in csv.DictReader(opened) if row["val/accuracy"]]
    assert logged == [record["metrics"]["val/accuracy"]]


def test_config_of_a_run_reproduces_its_weights(trained, capsys, tmp_path):
    status, _, _ = run(capsys, "fit", "--config", trained / "config.yaml", "--run_dir", tmp_path / "again")
    assert status == 0
    first, second = (
        torch.load(directory / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for directory in (trained, tmp_path / "again")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_test_prints_a_table_and_writes_test_json(trained, capsys, tmp_path):
    checkpoint = trained / "checkpoints/best.ckpt"
    status, out, err = run(capsys, "test", "--ckpt_path", checkpoint, "--run_dir", tmp_path / "t")
    assert (status, err) == (0, [])
    model, data = ImageClassifier.load_from_checkpoint(checkpoint).eval(), CIFAR10DataModule("digits")
    data.prepare_data()
    test = data.dataset.test
    with torch.inference_mode():
        right = model(test.images).argmax(1) == test.labels
    result = json.loads((tmp_path / "t/test.json").read_text())
    assert result["accuracy"] == pytest.approx(right.float().mean().item())
    assert result["per_class"]["3"]["recall"] == pytest.approx(right[test.labels == 3].float().mean().item())
    assert (tmp_path / "t" / result["checkpoint"]).samefile(checkpoint)
    assert result["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert f"accuracy           {result['accuracy']:>7.2%}     360" in out
    assert sum(line.startswith("accuracy ") for line in out) == 1


@pytest.mark.slow
def test_validate_prints_the_accuracy(trained, capsys):
    command = ["validate", "--ckpt_path", trained / "checkpoints/last.ckpt"]
    status, out, _ = run(capsys, *command)
    assert (status, [line.split()[0] for line in out]) == (0, ["val/loss", "val/accuracy"])
    assert run(capsys, *command, "--verbose", "false")[:2] == (0, [])


@pytest.mark.slow
def test_predict_writes_a_row_per_image(trained, capsys, tmp_path):
    checkpoint = trained / "checkpoints/last.ckpt"
    assert run(capsys, "predict", "--ckpt_path", checkpoint, "--run_dir", tmp_path / "p")[0] == 0
    with (tmp_path / "p/predictions.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [row["index"] for row in rows] == [str(index) for index in range(360)]
    assert {row["prediction"] for row in rows} <= {str(digit) for digit in range(10)}


def test_best_checkpoint_is_chosen_by_validation(trained):
    callbacks = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)["callbacks"]
    (state,) = (state for name, state in callbacks.items() if name.startswith("ModelCheckpoint"))
    assert state["monitor"] == "val/accuracy"
    assert not (trained / "checkpoints/best.ckpt").samefile(trained / "checkpoints/last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("linked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_best_checkpoint_without_validation_is_the_last(capsys, tmp_path, tiny, monkeypatch, linked):
    """The test set never selects; also after a resume, and where the file system has no hard links."""
    if not linked:
        monkeypatch.setattr(os, "link", lambda *_: os.stat(tmp_path / "none"))  # an OSError
    best, last = (tmp_path / f"run/checkpoints/{name}.ckpt" for name in ("best", "last"))
    for args in (
        ["fit", *tiny, "--data.held_out", "test", "--run_dir", tmp_path / "run"],
        ["fit", "--resume", tmp_path / "run"],  # the run has finished
        ["fit", "--resume", tmp_path / "run", "--trainer.max_epochs", "2"],
    ):
        status, out, _ = run(capsys, *args)
        assert (status, f"checkpoint: {last}" in out) == (0, True)
        assert best.read_bytes() == last.read_bytes()
        assert best.samefile(last) == linked
    assert {file.name for file in best.parent.iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}


@pytest.mark.slow
@pytest.mark.usefixtures("terminal_signals")
def test_stopped_run_without_validation_has_a_best_checkpoint(capsys, tmp_path, tiny, monkeypatch):
    def stop_at_step_1(callback, trainer, *_):
        if trainer.global_step == 1:
            assert not best.exists()
            signal.raise_signal(signal.SIGINT)

    best = tmp_path / "run/checkpoints/best.ckpt"
    monkeypatch.setattr(Throughput, "on_train_batch_end", stop_at_step_1)
    assert run(capsys, "fit", *tiny, "--data.held_out", "test", "--run_dir", tmp_path / "run")[0] == 130
    assert torch.load(best, weights_only=True)["global_step"] == 1
    assert run(capsys, "test", "--ckpt_path", best, "--run_dir", tmp_path / "t")[0] == 0


@pytest.fixture
def fit_foreign(tmp_path, tiny, monkeypatch) -> list[object]:
    """Return arguments of ``fit`` with a configuration that names a class of another package, ``foreign_package``."""
    package = tmp_path / "foreign_package.py"
    package.write_text(
        "from pathlib import Path\nfrom lightning import Callback\n"
        "Path('imported').touch()\nclass Mine(Callback):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign_package", raising=False)
    config = tmp_path / "config.yaml"
    config.write_text("trainer:\n  callbacks:\n    - class_path: foreign_package.Mine\n")
    return ["fit", "--config", config, *tiny[2:], "--data.dataset", "digits", "--trainer.log_every_n_steps", "1"]


def test_configurations_import_from_trusted_packages_only(capsys, tmp_path, fit_foreign):
    status, _, err = run(capsys, *fit_foreign, "--run_dir", tmp_path / "run")
    assert status == 2
    assert err[-1].endswith(
        "foreign_package.Mine is not imported: configurations may name what is in lightning and lightning_cifar; if "
        "you trust this one, add --trust_config foreign_package"
    )
    assert not Path("imported").exists()


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load"])
def test_configurations_cannot_run_functions(capsys, tmp_path, path):
    config = tmp_path / "config.yaml"
    config.write_text(f"trainer:\n  callbacks:\n    - class_path: {path}\n      init_args:\n        a: touch harmed\n")
    status, _, err = run(capsys, "fit", "--config", config)
    assert (status, f"{path} is not imported" in err[-1]) == (2, True)


def test_configurations_are_not_read_from_the_network(capsys):
    status, _, err = run(capsys, "fit", "--config", "http://127.0.0.1:9/config.yaml")
    assert (status, len(err)) == (2, 1)
    assert "http://127.0.0.1:9/config.yaml" in err[0]


@pytest.mark.slow
def test_precision_is_recorded(capsys, tmp_path, tiny):
    assert run(capsys, "fit", *tiny, "--trainer.precision", "bf16-mixed", "--run_dir", tmp_path / "run")[0] == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == "bf16-mixed"


@pytest.mark.slow
def test_ckpt_path_continues_training(trained, capsys, tmp_path, tiny):
    args = [*tiny, "--trainer.max_epochs", "2", "--ckpt_path", trained / "checkpoints/last.ckpt"]
    status, out, err = run(capsys, "fit", *args, "--run_dir", tmp_path / "run")
    assert status == 0
    assert err == []  # Lightning would warn that the best checkpoint is in another directory
    assert [line.split()[0] for line in out if "/2 " in line] == ["2/2"]


def test_ckpt_path_refuses_another_learning_rate(trained, capsys):
    args = ["--ckpt_path", trained / "checkpoints/last.ckpt", "--model.learning_rate", "0.1"]
    status, _, err = run(capsys, "fit", "--recipe", "demo", *args)
    assert (status, err) == (
        2,
        ["error: --model.learning_rate 0.1: the checkpoint was trained with 0.001"],
    )


@pytest.mark.parametrize(
    ("option", "words"),
    [("--model.hidden", "--model.hidden 64: the checkpoint was trained with "), ("--model.num_classes", "no option")],
)
def test_checkpoint_refuses_another_architecture(trained, capsys, option, words):
    status, _, err = run(capsys, "test", "--ckpt_path", trained / "checkpoints/last.ckpt", option, "64")
    assert (status, len(err)) == (2, 1)
    assert err[0].startswith(f"error: {words}")


@pytest.mark.slow
def test_folder_can_be_read_image_by_image(image_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_cifar.evaluate.evaluation.FEWEST_HELD_OUT", 1)
    data = ["--data.dataset", "folder", "--data.root", image_folder, "--data.in_memory", "false"]
    data += ["--data.num_workers", "0", "--data.batch_size", "6", "--data.held_out", "val"]
    small = ["--trainer.max_epochs", "1", "--model.widths", "[4,4,8,8,8]", "--trainer.log_every_n_steps", "1"]
    assert run(capsys, "fit", *data, *small, "--run_dir", tmp_path / "run")[0] == 0
    tested = ["--ckpt_path", tmp_path / "run/checkpoints/best.ckpt", "--data.root", image_folder, "--run_dir"]
    status, _, err = run(capsys, "test", *tested, tmp_path / "no", "--corruptions")
    assert (status, err) == (2, ["error: --corruptions needs the images in memory: --data.in_memory true"])
    limit = ["--corruptions", "--data.in_memory", "true", "--trainer.limit_test_batches", "1"]
    status, _, err = run(capsys, "test", *tested, tmp_path / "no", *limit)
    words = "--corruptions needs all test images: remove --trainer.limit_test_batches or fast_dev_run"
    assert (status, err) == (2, [f"error: {words}"])
    assert run(capsys, "test", *tested, tmp_path / "test")[0] == 0
    assert json.loads((tmp_path / "test/test.json").read_text())["temperature"] > 0  # fitted on the validation images
    assert run(capsys, "predict", *tested, tmp_path / "predicted")[0] == 0
    assert len((tmp_path / "predicted/predictions.csv").read_text().splitlines()) == 1 + 3


def test_permission_error_names_the_file():
    with pytest.raises(PermissionError) as caught:
        raise PermissionError(errno.EACCES, "Permission denied", b"data/train")
    assert explain(caught.value) == (2, "data/train: Permission denied")


def test_synchronised_batch_norm_on_a_cpu_is_explained():
    """As torch raises it in several processes."""
    words = "SyncBatchNorm expected input tensor to be on"
    assert words in Path(inspect.getfile(torch.nn.SyncBatchNorm)).read_text()
    with pytest.raises(ValueError, match=words) as caught:
        raise ValueError(f"{words} GPU")
    assert explain(caught.value) == (2, "--trainer.sync_batchnorm needs GPUs: leave it out")


# The process that calls `main`.


def read_process_state() -> dict[str, Any]:
    return {
        "showwarning": warnings.showwarning,
        "filters": list(warnings.filters),
        "levels": [logging.getLogger(f"lightning.{name}").level for name in ("pytorch", "fabric")],
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "unraisablehook": sys.unraisablehook,
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize(("options", "status"), [([], 0), (["--trainer.accelerator", "cuda"], 2)])
def test_main_restores_the_process(capsys, tmp_path, tiny, options, status):
    before = read_process_state()
    assert run(capsys, "fit", *tiny, *options, "--run_dir", tmp_path / "run")[0] == status
    assert read_process_state() == before


def test_a_module_of_a_package_may_be_trusted(capsys, tmp_path, fit_foreign):
    package = tmp_path / "foreign_parts"
    package.mkdir()
    (tmp_path / "foreign_package.py").rename(package / "callbacks.py")
    config = fit_foreign[2]
    config.write_text(config.read_text().replace("foreign_package", "foreign_parts.callbacks"))
    for trusted, status in (("foreign_parts.call", 2), ("foreign_parts.callbacks", 0)):
        fitted = run(capsys, *fit_foreign, "--trust_config", trusted, "--run_dir", tmp_path / "run")
        assert (fitted[0], Path("imported").exists()) == (status, not status)


def test_trust_config_ends_with_the_command(capsys, tmp_path, fit_foreign):
    assert run(capsys, *fit_foreign, "--trust_config", "foreign_package", "--run_dir", tmp_path / "one")[0] == 0
    assert Path("imported").exists()
    status, _, err = run(capsys, *fit_foreign, "--run_dir", tmp_path / "two")
    assert (status, "foreign_package.Mine is not imported" in err[-1]) == (2, True)
    parser = ArgumentParser()  # of a notebook, which may import anything again
    parser.add_argument("--callback", type=Callback)
    assert parser.parse_args(["--callback", "foreign_package.Mine"]).callback.class_path == "foreign_package.Mine"


def test_traceback_is_printed_if_the_environment_asks_for_it(capsys, monkeypatch):
    args = ["fit", "--recipe", "nosuch"]
    status, _, message = run(capsys, *args)
    assert (status, len(message)) == (2, 1)
    monkeypatch.setenv("LIGHTNING_CIFAR_TRACEBACK", "1")
    status, _, err = run(capsys, *args)
    assert (status, err[0], err[-1:]) == (2, "Traceback (most recent call last):", message)
    assert any("layer(args)" in line for line in err)


# As child processes, like those of test_wheel.py.


@pytest.mark.slow
def test_ctrl_c_saves_and_names_the_results(tmp_path, tiny, start, eventually):
    """After Ctrl-C, checkpoint, curves and record are written and the exit status is 130."""
    child = start("fit", *tiny, "--trainer.max_epochs", 10000, "--run_dir", tmp_path / "run")
    eventually(lambda: " 3/10000" in child.output.read_text(), child)
    child.send(signal.SIGINT)
    assert child.wait() == 130
    assert f"checkpoint: {tmp_path / 'run/checkpoints/best.ckpt'}" in child.output.read_text().splitlines()
    assert (tmp_path / "run/curves.png").exists()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["ended"] == "SIGTERMException"  # raised by Lightning after a signal
    assert record["timings"]["epochs"] >= 2


# Bad input: one line on standard error, status 2, no files.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fit", "--model.learning_rate", "fast"], ["model.learning_rate", "fast"]),
        (["fit", "--model.learning_rate", "-1"], ["learning_rate must be above 0", "-1"]),
        (["fit", "--model.widths", "[1,2]"], ["--model.widths must have one value for each of five blocks", "[1, 2]"]),
        (["fit", "--model.dropout", "1.5"], ["dropout must be in [0, 1)", "1.5"]),
        (["fit", "--recipe", "nosuch"], ["nosuch", "report", "demo"]),
        (["fit", "--config", "nosuch.yaml"], ["nosuch.yaml"]),
        (["fit", "--data.dataset", "mnist"], ["mnist", "cifar10"]),
        (["fit", "--data.batch_size", "0"], ["batch_size must be at least 1"]),
        (["fit", "--data.crop_padding", "32"], ["crop_padding must be in [0, 31]"]),
        (["fit", "--recipe", "demo", "--data.val_size", "5000"], ["val_size", "5000", "1436"]),
        (["fit", "--data.archive", "nosuch.tar.gz"], ["nosuch.tar.gz: no such file"]),
        (["fit", "--model.weight_decay", "-1"], ["weight_decay must be at least 0"]),
        (["fit", "--recipe", "demo", "--model.mean", "[0.5]"], ["mean must have one value"]),
        (["fit", "--recipe", "demo", "--trainer.accelerator", "bogus"], ["bogus"]),
        (["--config", "custom.yaml", "fit"], ["--config comes after the command"]),
        (["fit", "--data.url", "http://127.0.0.1:9/x"], ["Set url", "archive to", "root to"]),
        (["fit", "--recipe", "demo", "--trainer.accelerator", "cuda"], ["CUDA"]),
        (["fit", "--recipe", "demo", "--trainer.accelerator", "tpu"], ["torch_xla", "pip install"]),
        (
            ["fit", "--recipe", "demo", "--trainer.precision", "transformer-engine"],
            ["transformer_engine", "pip install"],
        ),
        (["fit", "--recipe", "demo", "--trainer.precision", "7"], ["precision"]),
        (["fit", "--recipe", "demo", "--run_dir", "/dev/null/run"], ["/dev/null/run", "--run_dir"]),
        (["test", "--ckpt_path", "nosuch.ckpt"], ["nosuch.ckpt: no such file"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(capsys, monkeypatch, args, words):
    monkeypatch.setattr(download, "PAUSES", (0,))
    status, out, err = run(capsys, *args)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert all(word in err[0] for word in words)
    assert not list(Path("runs").glob("*/*"))


def test_binary_configuration_is_refused(capsys, tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\x00\x80")
    (tmp_path / "good.yaml").write_text("trainer: {max_epochs: 1}")
    for args in (["--config"], ["--config", tmp_path / "good.yaml", "--config"]):
        for last in ([], ["--config", tmp_path / "good.yaml"]):
            status, _, err = run(capsys, "fit", *args, tmp_path / "config.yaml", *last)
            assert (status, err) == (2, [f"error: --config {tmp_path / 'config.yaml'} is not a text file"])
    status, _, err = run(capsys, "fit", "--resume", tmp_path)
    assert (status, err) == (2, [f"error: --config {tmp_path / 'config.yaml'} is not a text file"])


def make_folder(root, names):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.mark.slow
def test_test_of_a_moved_folder_and_of_other_classes(capsys, tmp_path, monkeypatch, tiny):
    folder = make_folder(tmp_path / "ants", ["ant", "bee", "cow"])
    images = ["--data.dataset", "folder", "--data.val_size", "3", "--trainer.log_every_n_steps", "1"]
    args = ["fit", *tiny, *images, "--data.root", folder, "--run_dir", tmp_path / "run"]
    assert run(capsys, *args)[0] == 0
    folder.rename(tmp_path / "moved")
    test = ["test", "--ckpt_path", tmp_path / "run/checkpoints/last.ckpt"]
    monkeypatch.setenv("LIGHTNING_CIFAR_DATA", str(tmp_path / "moved"))
    status, out, _ = run(capsys, *test)
    assert (status, [line.split()[0] for line in out[1:4]]) == (0, ["ant", "bee", "cow"])
    for names, words in (
        (["bee", "cow", "eel"], "the model has the classes ant, bee, cow; the data has bee, cow, eel"),
        (
            ["bee", "cow"],
            "error: the model, by data.classes, has 3 classes (ant, bee, cow), the data 2: name data with its classes",
        ),
    ):
        other = make_folder(tmp_path / str(len(names)), names)
        status, out, err = run(capsys, *test, "--data.root", other)
        assert (status, out, len(err)) == (2, [], 1)
        assert words in err[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:training without augmentation")
def test_test_reads_a_checkpoint_of_a_plain_trainer(capsys, tmp_path):
    data, model = CIFAR10DataModule("digits", val_size=200), ImageClassifier(widths=(4,) * 5)
    trainer = make_quiet_trainer(max_epochs=1, limit_train_batches=1)
    data.setup()
    trainer.fit(model, data.train_dataloader())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    args = ["--data.dataset", "digits", "--run_dir", tmp_path / "run"]
    assert run(capsys, "test", "--ckpt_path", tmp_path / "plain.ckpt", *args)[0] == 0


def test_foreign_checkpoint_is_refused(capsys, tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": {"depth": 18}}, tmp_path / "other.ckpt")
    status, _, err = run(capsys, "test", "--ckpt_path", tmp_path / "other.ckpt")
    assert (status, len(err)) == (2, 1)
    assert "other.ckpt is no checkpoint of this package" in err[0]
    assert "'depth'" in err[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are trying to .self.log")
@pytest.mark.parametrize(
    "flags", ["--trainer.enable_checkpointing false", "--trainer.barebones true --trainer.log_every_n_steps 0"]
)
def test_trainer_options_turn_checkpoints_off(capsys, tmp_path, tiny, flags):
    assert run(capsys, "fit", *tiny, *flags.split(), "--run_dir", tmp_path / "run")[0] == 0
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are trying to .self.log")
def test_a_barebones_trainer_needs_nothing_but_its_option(capsys, tmp_path):
    """The log interval of a recipe, which the user did not type, was refused."""
    short = ["--recipe", "demo", "--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", "1"]
    short += ["--trainer.limit_train_batches", "2", "--trainer.barebones", "true", "--run_dir", tmp_path / "run"]
    status, out, _ = run(capsys, "fit", *short)
    assert status == 0
    assert any("nothing is logged or saved" in line for line in out)
    assert run(capsys, "fit", "--resume", tmp_path / "run")[0] == 0
    assert run(capsys, "fit", "--config", tmp_path / "run/config.yaml", "--run_dir", tmp_path / "again")[0] == 0
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", tmp_path]
    status, _, err = run(capsys, "fit", *short[:-1], tmp_path / "other", *logger)
    assert (status, len(err)) == (2, 1)
    assert err[0].startswith("error: `Trainer(barebones=True, logger=CSVLogger)`")


@pytest.mark.slow
def test_limits_of_batches_select_test_images(capsys, trained, tmp_path):
    args = ["--ckpt_path", trained / "checkpoints/last.ckpt", "--data.eval_batch_size", "100"]
    for limit, images in (("1", 100), ("0.5", 200), ("1.0", 360)):
        run_dir = tmp_path / limit
        limits = ["--trainer.limit_predict_batches", limit, "--run_dir", run_dir]
        status, out, _ = run(capsys, "predict", *args, *limits)
        words = f", of {images} of 360 test images" if images < 360 else ""
        assert (status, out[-1].endswith(f"predictions.csv{words}")) == (0, True)
        assert len((run_dir / "predictions.csv").read_text().splitlines()) == 1 + images


def test_run_dir_with_files_is_refused_and_unchanged(capsys, trained, tiny):
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    status, _, err = run(capsys, "fit", *tiny, "--run_dir", trained)
    assert (status, len(err)) == (2, 1)
    assert f"{trained} is not empty" in err[0]
    assert err[0].endswith(f", or resume its run: fit --resume {trained}")
    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*")} == before


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "garbage", "truncated"])
def test_damaged_checkpoint_is_refused(capsys, tmp_path, trained, content):
    file = tmp_path / "damaged.ckpt"
    file.write_bytes((trained / "checkpoints/best.ckpt").read_bytes()[:5000] if content is None else content)
    status, _, err = run(capsys, "test", "--ckpt_path", file)
    assert (status, len(err)) == (2, 1)
    assert f"{file} is damaged" in err[0]
