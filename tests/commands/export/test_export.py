"""`export`: every file agrees with the model at every batch size, or is not written."""

import copy
import errno
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lightning_cifar import ImageClassifier, load_pretrained, main
from lightning_cifar.commands.export import check_images, command, formats
from lightning_cifar.commands.export.card import write_example
from lightning_cifar.commands.export.check_images import find_data
from lightning_cifar.evaluate.test_results import identify_checkpoint
from lightning_cifar.files import write_json
from lightning_cifar.run.weights import read_weights, save_weights
from lightning_cifar.sources.folder import load_folder
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint
from tests.command_line import run

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/export.md").read_text()
FORMATS = [*command.SUFFIXES.items()]


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """Return the file with a suffix, made by the command when a test first needs it: ONNX takes seconds."""
    folder, forms = tmp_path_factory.mktemp("models"), {suffix: form for form, suffix in FORMATS}

    def make(suffix: str) -> Path:
        file = folder / f"model{suffix}"
        args = ["--ckpt_path", str(trained / "checkpoints/last.ckpt"), "--output", str(file)]
        assert file.exists() or main(["export", *args, "--format", forms[suffix]]) == 0
        return file

    return make


def export(capsys, *args: object) -> tuple[int, str, str]:
    return run(capsys, "export", *args)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "suffix"),
    [pytest.param(*one, marks=[] if one[1] == ".safetensors" else pytest.mark.slow) for one in FORMATS],
)
def test_answers_as_the_model_does(checkpoint, models, form, suffix):
    model = ImageClassifier.load_from_checkpoint(checkpoint).eval()
    answer = formats.FORMATS[form][1](models(suffix))
    temperature = read_weights(models(".safetensors")).facts.get("temperature", 1)  # if a test fitted one before
    for batch in (1, 2, 7, 40):
        images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
        with torch.inference_mode():
            ours, theirs = model(images) / temperature, answer(images)
        assert ours.argmax(1).equal(theirs.argmax(1))
        assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max()


@pytest.mark.slow
def test_the_agreement_and_both_files_are_printed(checkpoint, tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    status, out, _ = export(capsys, "--ckpt_path", checkpoint, "--output", file)
    assert status == 0
    checked, model, card = out.splitlines()
    assert checked.startswith("checked: same class on all of 360 test images, largest logit difference 0.0e+00 (")
    assert (model.split(",")[0], card) == (f"model: {file}", f"card: {file}.md")
    assert {one.name for one in tmp_path.iterdir() if one.is_file()} == {file.name, f"{file.name}.md"}


@pytest.mark.slow
def test_each_file_holds_facts_and_no_local_path(models):
    import onnx

    proto = onnx.load(models(".onnx"))
    stored = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert (stored["classes"], stored["recipe"], stored["data"]) == (
        list("0123456789"),
        "demo",
        "scikit-learn's digits",
    )
    assert [(one.name, one.type.tensor_type.shape.dim[0].dim_param) for one in proto.graph.input] == [
        ("images", "batch")
    ]
    extra = {formats.FACTS: ""}
    torch.export.load(models(".pt2"), extra_files=extra)
    assert json.loads(extra[formats.FACTS]) == stored
    assert read_weights(models(".safetensors")).facts == stored
    for _, suffix in FORMATS:
        content = models(suffix).read_bytes()
        assert not any(path in content for path in (str(ROOT).encode(), str(models(suffix).parent).encode()))


@pytest.mark.slow
def test_safetensors_is_a_checkpoint_again(models, drawn_folder, tmp_path, capsys):
    weights = models(".safetensors")
    assert (
        export(capsys, "--ckpt_path", weights, "--output", tmp_path / "again.safetensors", "--images", drawn_folder)[0]
        == 0
    )
    first, second = read_weights(weights), read_weights(tmp_path / "again.safetensors")
    assert (first.hyper_parameters, first.facts) == (second.hyper_parameters, second.facts)
    assert all(second.tensors[name].equal(value) for name, value in first.tensors.items())


@pytest.mark.slow
def test_images_of_ones_own_or_of_the_test_or_random_ones(models, drawn_folder, tmp_path, capsys):
    args = ["--ckpt_path", models(".safetensors"), "--output"]
    _, out, _ = export(capsys, *args, tmp_path / "a.safetensors", "--images", drawn_folder)
    assert "same class on all of 20 images of --images, " in out
    assert "no effect" not in out
    both = ["--images", drawn_folder, "--data.root", drawn_folder, "--data.labels", "labels.csv"]
    _, out, _ = export(capsys, *args, tmp_path / "both.safetensors", *both)
    assert "same class on all of 20 images of --images, " in out
    for name in ("root", "labels"):
        assert f"note: --data.{name} has no effect: --images are checked\n" in out
    _, out, _ = export(capsys, *args, tmp_path / "b.safetensors")
    assert "same class on all of 360 test images, " in out
    save_weights(load_pretrained(models(".safetensors")), tmp_path / "unknown.safetensors", None)
    _, out, _ = export(capsys, "--ckpt_path", tmp_path / "unknown.safetensors", "--output", tmp_path / "c.safetensors")
    assert "same class on all of 100 random images (the model's data was not found: name images by --images), " in out
    assert "same class on all of 100 random images, " in (tmp_path / "c.safetensors.md").read_text()
    _, out, _ = export(capsys, *args, tmp_path / "d.safetensors", "--images", sorted(drawn_folder.rglob("*.*"))[0])
    assert "same class on the only image of --images, " in out


@pytest.mark.slow
def test_of_a_run_on_another_datamodule(checkpoint, tmp_path, capsys):
    stored = load_checkpoint(checkpoint) | {"datamodule_hyper_parameters": {"dataset": "mine", "pixels": 3}}
    save_checkpoint(stored, tmp_path / "other.ckpt")
    status, out, _ = export(capsys, "--ckpt_path", tmp_path / "other.ckpt", "--output", tmp_path / "a.safetensors")
    assert (status, "on all of 100 random images" in out) == (0, True)
    assert "unknown data.\n" in (tmp_path / "a.safetensors.md").read_text()


def test_images_of_other_classes_are_not_the_models_own(image_folder, monkeypatch):
    monkeypatch.setenv("LIGHTNING_CIFAR_DATA", str(image_folder))
    options = {"dataset": "folder", "held_out": "val"}
    assert find_data(options, ["cat", "dog"]) is not None
    assert find_data(options, ["cat", "cow"]) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix",
    [".safetensors", pytest.param(".pt2", marks=pytest.mark.slow), pytest.param(".onnx", marks=pytest.mark.long)],
)
def test_temperature_is_applied_in_a_file_of_any_name(checkpoint, suffix, drawn_folder, capsys):
    """Also of one that is no text."""
    model = ImageClassifier.load_from_checkpoint(checkpoint).eval()
    save_weights(model, Path("calibrated.safetensors"), "val", temperature=0.5)
    output, file = Path(os.fsdecode(b"my\xff")).with_suffix(suffix), Path(f"model{suffix}")
    args = ["--ckpt_path", "calibrated.safetensors", "--output", output, "--images", drawn_folder]
    assert export(capsys, *args)[0] == 0
    output.rename(file)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    (answer,) = (opened for form, opened in formats.FORMATS.items() if command.SUFFIXES[form] == suffix)
    with torch.inference_mode():
        torch.testing.assert_close(answer[1](file)(images), 2 * model(images))
    card = Path(f"{output}.md").read_text()
    assert "logits by the temperature 0.500, fitted on held-out images" in card
    assert f"`my\\udcff{suffix}`" in card


@pytest.mark.slow
def test_a_file_that_disagrees_is_not_written(checkpoint, tmp_path, capsys, monkeypatch):
    def spoil(model, file, facts):
        model = copy.deepcopy(model)
        model.network.classifier[-1].bias.data[0] += 0.01
        formats.save_weights(model, file, **facts)

    monkeypatch.setitem(formats.FORMATS, "safetensors", (spoil, formats.load_pretrained))
    file = tmp_path / "model.safetensors"
    status, _, err = export(capsys, "--ckpt_path", checkpoint, "--output", file)
    assert (status, err.startswith(f"{file} was not written because it disagrees with the model: ")) == (1, True)
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--output x.onnx", "export: the following arguments are required: --ckpt_path"),
        ("--ckpt_path x", "export: the following arguments are required: --output"),
        (
            "--ckpt_path x --output x.pt --format torch.export",
            "--output x.pt: --format torch.export needs the suffix .pt2",
        ),
        ("--ckpt_path x --output x.pt2 --int8", "--int8 needs --format onnx, got torch.export"),
        ("--ckpt_path absent.ckpt --output x.pt2", "--ckpt_path absent.ckpt: no such file"),
        ("--ckpt_path x --output absent/x.pt2", "--output absent/x.pt2: absent is not a directory: make it first"),
        (
            "--ckpt_path x --output /dev/null/x.pt2",
            "--output /dev/null/x.pt2: /dev/null is not a directory: make it first",
        ),
        ("--ckpt_path pretrained --output x.pt2 --images *.png", "--images *.png: no image found"),
        (
            "--ckpt_path pretrained --output x.onnx --int8",
            "--int8 needs images to calibrate with, and the model's data was not found: set --images",
        ),
    ],
)
def test_bad_input_is_one_line(capsys, args, message):
    status, out, err = export(capsys, *args.split())
    assert (status, out, err) == (2, "", f"error: {message}\n")
    assert not list(Path().glob("x*"))


def test_bad_files_are_one_line(checkpoint, models, tmp_path, capsys):
    (tmp_path / "x.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "x.png").write_bytes(b"x")
    status, _, err = export(capsys, "--ckpt_path", tmp_path / "x.ckpt", "--output", tmp_path / "new.pt2")
    assert (status, err.startswith(f"error: {tmp_path / 'x.ckpt'} is damaged")) == (2, True)
    args = ["--ckpt_path", models(".safetensors"), "--images", tmp_path / "x.png", "--output"]
    status, _, err = export(capsys, *args, tmp_path / "new.pt2")
    assert (status, err.startswith(f"error: --images {tmp_path / 'x.png'} cannot be read (")) == (2, True)


def test_existing_files_are_not_overwritten(checkpoint, tmp_path, capsys):
    for name in ("old.pt2", "new.pt2.md"):
        (tmp_path / name).write_text("mine")
    for output, there in (("old.pt2", "old.pt2"), ("new.pt2", "new.pt2.md")):
        status, _, err = export(capsys, "--ckpt_path", checkpoint, "--output", tmp_path / output)
        message = f"error: --output {tmp_path / there} exists: remove it or name another file\n"
        assert (status, err, (tmp_path / there).read_text()) == (2, message, "mine")


@pytest.mark.slow
def test_without_the_extra(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    args = ["--ckpt_path", checkpoint, "--output"]
    message = "error: export --format onnx needs the extra: pip install 'lightning-cifar[onnx]'\n"
    assert export(capsys, *args, tmp_path / "x.onnx") == (2, "", message)
    assert export(capsys, *args, tmp_path / "x.safetensors")[0] == 0


@pytest.mark.parametrize(
    "known",
    [
        {"held_out": "all"},
        {"calibration_error": "low"},
        {"recipe_accuracy": 5, "accuracy": 0.5},
        {"data": 7, "accuracy": 0.5},
    ],
)
def test_damaged_facts_of_a_weights_file_are_one_line(models, capsys, known):
    save_weights(load_pretrained(models(".safetensors")), Path("odd.safetensors"), **{"held_out": "val", **known})
    status, _, err = export(capsys, "--ckpt_path", "odd.safetensors", "--output", "x.safetensors")
    assert (status, len(err.splitlines())) == (2, 1)
    assert err.startswith("error: the facts about odd.safetensors are damaged (")
    assert not [*Path().glob("x.*")]


@pytest.mark.parametrize("fact", [{"loss": "low"}, {"temperature": math.nan}, {"temperature": "1"}, {"accuracy": [1]}])
def test_damaged_facts_of_a_test_are_one_line(trained, capsys, fact):
    shutil.copytree(trained, "run")
    Path("run/test").mkdir()
    checkpoint = Path("run/checkpoints/last.ckpt")
    result = {"accuracy": 0.5, "images": 9, "loss": 1.0, "calibration_error": 0.1} | fact
    write_json(Path("run/test/test.json"), identify_checkpoint(checkpoint, Path("run/test")) | result)
    status, _, err = export(capsys, "--ckpt_path", checkpoint, "--output", "x.safetensors")
    assert (status, len(err.splitlines()), f"of {checkpoint}" in err or f"about {checkpoint}" in err) == (2, 1, True)
    assert not [*Path().glob("x.*")]


@pytest.mark.slow
def test_weights_without_facts_are_exported(models, capsys):
    stored = read_weights(models(".safetensors"))
    metadata = {"hyper_parameters": json.dumps(stored.hyper_parameters), "known": "{}"}
    save_file(stored.tensors, "bare.safetensors", metadata)
    assert export(capsys, "--ckpt_path", "bare.safetensors", "--output", "x.safetensors")[0] == 0
    assert "Trained on unknown data." in Path("x.safetensors.md").read_text()


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_card_leaves_no_file(checkpoint, capsys, monkeypatch):
    def fail(file, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(command, "write_whole", fail)
    status, _, err = export(capsys, "--ckpt_path", checkpoint, "--output", "x.safetensors")
    assert (status, err.startswith("error: x.safetensors.md: No space left on device: free some")) == (1, True)
    assert not [*Path().glob("*x.safetensors*")]


@pytest.mark.parametrize(
    "suffix", [pytest.param(".onnx", marks=pytest.mark.long), pytest.param(".pt2", marks=pytest.mark.slow)]
)
def test_a_full_disk_for_temporary_files_is_named(checkpoint, capsys, suffix):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        status, _, err = export(capsys, "--ckpt_path", checkpoint, "--output", f"x{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert err.splitlines()[-1].endswith(f"model{suffix}: File too large: free some space; then run the command again")


def test_pipes_are_not_read(models, drawn_folder, capsys):
    shutil.copytree(drawn_folder / "cat", "images")
    os.mkfifo("images/pipe.png")
    args = ["--ckpt_path", models(".safetensors"), "--output", "x.safetensors", "--images", "images"]
    message = "error: --images images/pipe.png cannot be read (not a regular file): leave it out\n"
    assert export(capsys, *args) == (2, "", message)


def test_a_folder_of_test_images_gives_none_to_calibrate_with(checkpoint, image_folder, monkeypatch):
    for part in ("train", "val"):
        shutil.rmtree(image_folder / part)
    data = load_folder(image_folder, class_names=["cat", "dog"])
    monkeypatch.setattr(check_images, "find_data", lambda *_: data)
    places = {"root": None, "labels": None}
    which, images, calibration = check_images.load_images([], checkpoint, {"class_names": ["cat", "dog"]}, places)
    assert (which, len(images), calibration) == ("test images", 3, None)


# ------------------------------------------------------------------------------------------------------------- the page


@pytest.mark.slow
def test_the_page_and_the_card_have_the_same_examples(models):
    for form, suffix in FORMATS:
        code = write_example(form, f"model{suffix}", 32, "crop")
        assert code in PAGE
        assert code in Path(f"{models(suffix)}.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("form", "suffix"), FORMATS)
def test_the_example_names_the_class_that_predict_does(models, drawn_folder, capsys, form, suffix):
    """Of a picture that is neither square nor of 32 pixels, without torch for ONNX, without this package for torch."""
    picture = Image.open(drawn_folder / "frog/0000.jpg").resize((90, 64))
    weights, folder = models(".safetensors"), models(suffix).parent
    picture.save(folder / "my.jpg")
    capsys.readouterr()
    needless = {".onnx": "torch", ".pt2": "lightning_cifar", ".safetensors": "onnxruntime"}[suffix]
    code = write_example(form, f"model{suffix}", 32, "crop") + f"import sys\nassert {needless!r} not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    args = ["--images", str(folder / "my.jpg"), "--format", "jsonl", "--top", "1"]
    assert main(["predict", "--ckpt_path", str(weights), *args]) == 0
    ((name, _),) = json.loads(capsys.readouterr().out)["classes"]
    assert done.stdout.strip() == name


def test_source_paths_are_removed_from_subgraphs_too():
    from onnx import helper

    inner = helper.make_node("Identity", ["x"], ["y"])
    inner.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me")
    outer = helper.make_node("If", ["is"], ["z"], then_branch=helper.make_graph([inner], "then", [], []))
    formats.remove_source_paths([outer])
    assert b"/home/me" not in outer.SerializeToString()


@pytest.mark.slow
def test_weights_know_their_dataset(image_folder, tiny):
    """So that a weights file of an image folder is tested as its checkpoint is, by --data.root alone."""
    data = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.held_out", "test"]
    assert main(["fit", *tiny, *data, "--trainer.log_every_n_steps", "1", "--run_dir", "run"]) == 0
    assert main(["export", "--ckpt_path", "run", "--output", "x.safetensors"]) == 0
    assert main(["test", "--ckpt_path", "x.safetensors", "--data.root", str(image_folder), "--run_dir", "test"]) == 0
    assert main(["test", "--ckpt_path", "run", "--data.root", str(image_folder), "--run_dir", "other"]) == 0
    one, other = (json.loads(Path(name, "test.json").read_text()) for name in ("test", "other"))
    assert one["confusion"] == other["confusion"]


@pytest.mark.slow
def test_an_exported_model_is_tested_on_the_images_that_its_run_held_out(drawn_folder, tiny, tmp_path, capsys):
    """Its file says how images were chosen; others have been trained on."""
    data = ["--data.dataset", "folder", "--data.root", str(drawn_folder), "--data.val_size", "2"]
    data += ["--trainer.log_every_n_steps", "1"]
    assert main(["fit", *tiny, *data, "--data.split_seed", "3", "--run_dir", "run"]) == 0
    assert export(capsys, "--ckpt_path", "run/checkpoints/last.ckpt", "--output", "model.safetensors")[0] == 0
    logits = []
    for name, file in (("one", "run/checkpoints/last.ckpt"), ("other", "model.safetensors")):
        assert main(["test", "--ckpt_path", file, "--data.root", str(drawn_folder), "--run_dir", name]) == 0
        assert "split_seed 3 chooses 10 of its 20 images" in capsys.readouterr().out
        with np.load(tmp_path / name / "predictions.npz") as found:
            logits.append(found["logits"])
    assert np.allclose(*logits, atol=1e-4)
