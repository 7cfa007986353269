"""Weights files: the same classifier in Python and on the command line, and errors for damaged files."""

import csv
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError, fine_tune, load_pretrained, main
from lightning_cifar.files import compute_digest
from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
from lightning_cifar.run.weights import PRETRAINED, read_weights, save_weights
from lightning_cifar.sources.images import read_image
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The model of a short run and its weights file."""
    model = ImageClassifier.load_from_checkpoint(trained / "checkpoints/last.ckpt").eval()
    file = tmp_path_factory.mktemp("exported") / "model.safetensors"
    save_weights(model, file, held_out="val", half=True, recipe="demo")
    return model, file


@pytest.mark.slow
def test_models_are_loaded_in_threads_beside_networks_of_others(exported):
    """Of which none counts the parameters of another."""
    _, file = exported
    with ThreadPoolExecutor(4) as pool:
        models = [pool.submit(load_pretrained, file) for _ in range(6)]
        others = [pool.submit(lambda: nn.Sequential(*[nn.Linear(8, 8) for _ in range(500)])) for _ in range(20)]
        assert all(one.result() for one in (*models, *others))


@pytest.mark.slow
def test_classifies_like_the_model(exported):
    model, file = exported
    images = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = load_pretrained(file)(images), model(images)
    assert (ours - theirs).abs().max() < 5e-3 * theirs.abs().max()  # half precision keeps 11 bits
    assert load_pretrained(file).hparams == model.hparams


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.5, "cutmix": 0.5, "label_smoothing": 0.1},
        {"members": 2, "gate": "softmax"},
        {"flip_equivariant": True, "depths": (1, 0, 0, 0, 0)},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"mixup": 0.5},
                {"cutmix": 0.5},
                {"class_weights": [1, 2]},
                {"stem_kernel": 2, "dirac": True, "optimizer": "muon"},
                {"gate": "channel", "hidden": 0, "activation": "gelu"},
                {"network": "wide_resnet10_1", "schedule": "one_cycle"},
                {"network": "shufflenet_v2_x0_5", "image_size": 64},
            )
        ),
    ],
)
def test_a_model_of_any_options_is_read_and_trained_again(options, tmp_path):
    """Its network is first built without memory, where nothing may read values."""
    model, file = ImageClassifier(2, **({"widths": (4, 4, 8, 8, 8)} | options)).eval(), tmp_path / "model.safetensors"
    save_weights(model, file, held_out="val")
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    assert load_pretrained(file)(images).equal(model(images))
    assert fine_tune(file, 2, **{name: options[name] for name in options if name in ("mixup", "cutmix")})


@pytest.mark.slow
def test_a_run_with_mixed_images_is_tested(tiny):
    mixing = ["--model.mixup", "0.5", "--model.cutmix", "0.5"]
    assert main(["fit", *tiny, *mixing, "--run_dir", "run"]) == 0
    assert main(["test", "--ckpt_path", "run"]) == 0
    assert main(["fit", *tiny, "--init_from", "run", *mixing, "--run_dir", "other"]) == 0


def test_metadata_has_the_given_facts(exported):
    with safe_open(exported[1], "pt") as opened:
        assert json.loads(opened.metadata()["known"]) == {"held_out": "val", "recipe": "demo"}


@pytest.mark.slow
def test_command_line_tests_weights_like_the_checkpoint(exported, trained, tmp_path):
    accuracies = []
    for number, checkpoint in enumerate([exported[1], trained / "checkpoints/last.ckpt"]):
        data = ["--data.dataset", "digits", "--run_dir", str(tmp_path / str(number))]
        assert main(["test", "--ckpt_path", str(checkpoint), *data]) == 0
        accuracies.append(json.loads((tmp_path / str(number) / "test.json").read_text())["accuracy"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)


def test_checkpoint_of_version_0_1_0_keeps_its_data_settings(trained, tmp_path):
    stored, file = load_checkpoint(trained / "checkpoints/last.ckpt"), tmp_path / "old.ckpt"
    data = stored["datamodule_hyper_parameters"]
    del data["sizes"], data["size_shares"], data["image_size"], data["non_square"], data["classes"]
    torch.save(stored | {"datamodule_hyper_parameters": data | {"small_epochs": 10, "small_size": 24}}, file)
    for place in ("url", "archive", "root", "labels"):  # only the user names them
        data.pop(place)
    names = stored["hyper_parameters"]["class_names"]
    assert checkpoint_config(file)["data"] == data | {"image_size": 32, "non_square": "crop", "classes": names}


def test_fit_refuses_to_resume_from_weights(exported, tmp_path, capsys):
    assert main(["fit", "--ckpt_path", str(exported[1]), "--run_dir", str(tmp_path / "run")]) == 2
    message = f"error: --ckpt_path {exported[1]} holds weights only: fit continues from a checkpoint (.ckpt)\n"
    assert capsys.readouterr().err == message


@pytest.fixture(scope="module")
def calibrated(exported, tmp_path_factory):
    """The same model with a temperature."""
    file = tmp_path_factory.mktemp("calibrated") / "model.safetensors"
    save_weights(exported[0], file, held_out="val", temperature=0.5)
    return file


def test_temperature_scales_probabilities_and_no_class(exported, calibrated):
    images = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8)
    model = load_pretrained(calibrated)
    with torch.inference_mode():
        logits, probabilities = exported[0](images), model.predict_step(images, 0)
        assert model(images).equal(logits)
    torch.testing.assert_close(probabilities, (2 * logits).softmax(1))
    assert probabilities.argmax(1).equal(logits.argmax(1))
    assert probabilities.max(1).values.mean() > logits.softmax(1).max(1).values.mean()


@pytest.mark.slow
def test_commands_apply_the_temperature(exported, calibrated, drawn_folder, tmp_path, capsys):
    found = []
    for file in (exported[1], calibrated):
        assert main(["predict", "--ckpt_path", str(file), "--images", str(drawn_folder), "--top", "1"]) == 0
        rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))]
        found.append(([row["class"] for row in rows], sum(float(row["probability"]) for row in rows)))
    assert found[0][0] == found[1][0]
    assert found[0][1] < found[1][1]
    run_dir = tmp_path / "test"
    args = ["--ckpt_path", str(calibrated), "--data.dataset", "digits", "--run_dir", str(run_dir)]
    assert main(["test", *args]) == 0
    assert "after temperature scaling by 0.500: loss " in capsys.readouterr().out
    result = json.loads((run_dir / "test.json").read_text())
    assert result["temperature"] == 0.5  # not fitted anew
    assert result["temperature_scaled"]["loss"] != result["loss"]


ODD = [("temperature", value) for value in (0, -1.0, "1", None, float("nan"), float("inf"), 10**400)]
ODD += [("accuracy", value) for value in ("x", [1], 2.0)] + [("accuracy_without_tta", None)]
ODD += [("recipe", "\ud800")]  # half of a surrogate pair, which no file can hold


@pytest.mark.parametrize(("name", "value"), ODD)
def test_refuses_facts_that_cannot_be_used(exported, name, value, capsys):
    save_weights(exported[0], Path("odd.safetensors"), held_out="val", **{name: value})
    assert main(["test", "--ckpt_path", "odd.safetensors", "--data.dataset", "digits"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: odd.safetensors is damaged or holds no weights of this package (")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_refuses_damaged_files(exported, tmp_path, capsys, damage):
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(damage(exported[1].read_bytes()))
    assert main(["test", "--ckpt_path", str(file), "--data.dataset", "digits"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file} is damaged or holds no weights of this package (")


@pytest.mark.parametrize("change", ["a parameter", "another shape"])
def test_refuses_weights_of_another_version(exported, drawn_folder, tmp_path, capsys, change):
    file = tmp_path / "odd.safetensors"
    stored = read_weights(exported[1])
    changed = stored.hyper_parameters | ({"wings": 2} if change == "a parameter" else {"widths": [8, 8, 8, 8, 8]})
    save_file(stored.tensors, file, {"hyper_parameters": json.dumps(changed), "known": json.dumps(stored.facts)})
    assert main(["predict", "--ckpt_path", str(file), "--images", str(drawn_folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file} holds no model of this package (")


# ---------------------------------------------------------------------------------------------------------- pretrained

# Stored logits of the pretrained model for three of the drawn images.
LOGITS = {
    2: [2.126, -0.626, -0.352, 0.137, -0.225, 1.074, -0.622, -0.844, -0.306, -0.349],
    7: [2.151, -0.469, -0.091, -0.272, -0.445, -0.292, -0.348, -0.478, 0.308, -0.054],
    16: [2.575, -0.345, 0.402, -0.236, -0.721, -0.266, -0.491, -0.564, -0.434, 0.091],
}


def test_pretrained_logits_equal_the_stored_ones(drawn_images):
    with torch.inference_mode():
        logits = load_pretrained()(drawn_images[list(LOGITS)])
    torch.testing.assert_close(logits, torch.tensor([*LOGITS.values()]), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_pretrained_classifies_cifar10(cifar10_root):
    data = CIFAR10DataModule(root=cifar10_root)
    data.setup()
    test = data.test.sample(2000)
    model = load_pretrained()
    with torch.inference_mode():
        classes = torch.cat([model(images).argmax(1) for images in test.images.split(250)])
    assert (classes == test.labels).float().mean() > 0.9


def test_pretrained_is_small_and_matches_its_evidence():
    assert PRETRAINED.stat().st_size <= 6_000_000
    stored = read_weights(PRETRAINED)
    hyper_parameters, known = stored.hyper_parameters, stored.facts
    assert len(hyper_parameters["class_names"]) == len(hyper_parameters["mean"]) + 7 == 10
    evidence = json.loads((Path(__file__).parents[2] / f"benchmarks/results/{known['recipe']}.json").read_text())
    assert (known["data"], known["accuracy"]) == (evidence["data"], evidence["seeds"][0]["accuracy"])
    assert known["recipe_accuracy"].items() <= evidence["accuracy"].items()


def test_results_name_the_digest_of_pretrained():
    found = [json.loads(file.read_text()) for file in (Path(__file__).parents[2] / "benchmarks/results").glob("*.json")]
    measured = {one["command"]: one["model_sha256"] for one in found if "model_sha256" in one}
    assert measured
    assert measured == dict.fromkeys(measured, compute_digest(PRETRAINED))


@pytest.mark.slow
def test_photos_of_the_docs_are_classified(capsys):
    photos = sorted((Path(__file__).parents[2] / "docs/photos").glob("*.[jp][pn]g"))
    sources = (photos[0].parent / "SOURCES.txt").read_text()
    assert main(["predict", "--images", *map(str, photos), "--format", "jsonl"]) == 0
    for photo, line in zip(photos, capsys.readouterr().out.splitlines(), strict=True):
        assert json.loads(line)["classes"][0][0] == photo.stem
        assert photo.stat().st_size <= 60_000
        assert re.search(rf"^{photo.name} .*CC0;", sources, re.MULTILINE)


@pytest.mark.slow
def test_predict_accepts_pretrained_by_name(drawn_folder, capsys):
    folders = [drawn_folder / "cat", drawn_folder / "ship"]
    assert main(["predict", "--ckpt_path", "pretrained", "--images", *map(str, folders), "--top", "1"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [row["file"] for row in rows] == [str(file) for one in folders for file in sorted(one.glob("*.jpg"))]
    model = load_pretrained()
    images = torch.from_numpy(np.stack([read_image(row["file"]) for row in rows])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        classes = model.predict_step(images, 0).argmax(1)
    assert [row["class"] for row in rows] == [model.hparams["class_names"][index] for index in classes]


@pytest.mark.slow
def test_load_pretrained_takes_what_commands_take(trained, exported, tmp_path):
    """A run directory, its checkpoint, a weights file and ``pretrained``; other names are refused."""
    for given in (trained, str(trained / "checkpoints/best.ckpt"), exported[1], "pretrained"):
        assert not load_pretrained(given).training
    (tmp_path / "empty").mkdir()
    for given, words in (
        (None, "file must be a path or pretrained, got NoneType"),
        (ImageClassifier(widths=[8] * 5), "got ImageClassifier"),
        ("no.ckpt", "no such file"),
        (tmp_path / "empty", "name a run"),
    ):
        with pytest.raises(InputError, match=words):
            load_pretrained(given)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_checkpoint_of_another_precision_is_used_in_single(trained, drawn_folder, dtype):
    """As after ``--trainer.precision bf16-true`` or ``64-true``."""
    content = load_checkpoint(trained / "checkpoints/last.ckpt")
    for name, one in content["state_dict"].items():
        content["state_dict"][name] = one.to(dtype) if one.is_floating_point() else one
    save_checkpoint(content, Path("other.ckpt"))
    assert {one.dtype for one in load_pretrained("other.ckpt").parameters()} == {torch.float32}
    for command in (["predict", "--images", drawn_folder / "cat"], ["export", "--output", Path("x.safetensors")]):
        assert main([*command, "--ckpt_path", "other.ckpt"]) == 0


@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, lambda one: one.to("meta"), lambda one: one.cfloat()])
def test_tensors_that_are_no_plain_numbers_are_refused(trained, make):
    content = load_checkpoint(trained / "checkpoints/last.ckpt")
    name = next(name for name in content["state_dict"] if name.endswith("weight"))
    content["state_dict"][name] = make(content["state_dict"][name])
    save_checkpoint(content, Path("odd.ckpt"))
    with pytest.raises(InputError, match=r"odd\.ckpt (holds no model|is damaged)"):
        load_pretrained("odd.ckpt")
