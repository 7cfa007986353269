"""Images of other sizes than 32x32: augmentation, and a model of 64x64 images through every command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifar import CIFAR10DataModule, ImageClassifier, InputError, load_pretrained, main
from lightning_cifar.data.square import Square
from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
from lightning_cifar.run.weights import get_square, save_weights
from lightning_cifar.sources.images import read_image
from lightning_cifar.train.checkpoint import load_checkpoint


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image_size": 31}, "image_size must be in [32, 224], got 31"),
        ({"image_size": 225}, "image_size must be in [32, 224], got 225"),
        ({"image_size": 64, "crop_padding": 64}, "crop_padding must be in [0, 63], got 64"),
        ({"image_size": 224, "crop_padding": 128}, "crop_padding must be in [0, 127], got 128"),
        ({"image_size": 64, "cutout": 65}, "cutout must be in [0, 64], got 65"),
        ({"image_size": 64, "sizes": [65]}, "sizes must be in [8, 64], got 65"),
        ({"non_square": "squash"}, "non_square must be one of crop, letterbox, got squash"),
        ({"in_memory": "maybe"}, "in_memory must be true, false or auto, got 'maybe'"),
        ({"drop_last": 0}, "drop_last must be true or false, got 0"),
        ({"labels": "x.csv", "dataset": "digits"}, "labels x.csv needs dataset folder, got digits"),
    ],
)
def test_bad_arguments_are_named(bad_input, options, problem):
    with bad_input(problem):
        CIFAR10DataModule(**options)


def test_the_largest_crops_are_drawn_at_every_size(image_folder):
    """Draws are bytes: crops begin at 0 to 254, centres of cutouts at 0 to 223."""
    options = {"image_size": 224, "crop_padding": 127, "cutout": 16, "batch_size": 18}
    data = CIFAR10DataModule("folder", root=str(image_folder), **options)
    data.setup()
    data.train_dataloader()
    assert data.draws[:, 1:3].max() > 127
    assert data.augment_batch(data.train.images[:2], torch.arange(2)).shape == (2, 3, 224, 224)


# --------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("size", [32, 64, 128, 224])
@pytest.mark.parametrize("global_pool", ["average", "max"])
def test_the_network_takes_images_of_every_size(size, global_pool):
    """The head pools the whole last map, which has 1x1, 2x2, 4x4 and 7x7 pixels."""
    model = ImageClassifier(2, widths=[4, 4, 4, 4, 8], global_pool=global_pool)
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    maps = model.network.backbone(model.normalise(images))
    assert maps.shape[2:] == (size // 32, size // 32)
    assert model(images).shape == (2, 2)
    model.training_step((images, torch.tensor([0, 1])), 0)["loss"].backward()


def test_models_of_earlier_versions_take_32_pixels():
    """They store no size."""
    model = ImageClassifier()
    assert model.hparams["image_size"] is None
    assert get_square(model.hparams) == Square(32, "crop")
    save_weights(model.eval(), Path("old.safetensors"), held_out=None)
    data = checkpoint_config(Path("old.safetensors"))["data"]
    assert (data["image_size"], data["non_square"]) == (32, "crop")
    with pytest.raises(InputError, match=r"image_size must be in \[1, 224\], got 0"):
        ImageClassifier(image_size=0)


@pytest.fixture(scope="module")
def tall(tmp_path_factory) -> Path:
    """An image folder of 8 images of 96x80 pixels in each of two classes, without parts."""
    root, draw = tmp_path_factory.mktemp("tall"), np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir()
        for number in range(8):
            pixels = draw.integers(100 * label, 156 + 100 * label, (80, 96, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


SIZE_64 = ("--data.dataset", "folder", "--data.image_size", "64", "--data.non_square", "letterbox")
STEPS = ("--data.val_size", "2", "--data.batch_size", "6", "--trainer.log_every_n_steps", "1")


@pytest.fixture(scope="module")
def run(tall, tiny, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("run") / "run"
    words = ["--data.root", str(tall), "--run_dir", str(run_dir), "--trainer.max_epochs", "2"]
    assert main(["fit", *tiny, *SIZE_64, *STEPS, *words]) == 0
    return run_dir


@pytest.mark.slow
def test_a_checkpoint_knows_its_size(run):
    hyper_parameters = load_checkpoint(run / "checkpoints/last.ckpt")["hyper_parameters"]
    assert (hyper_parameters["image_size"], hyper_parameters["non_square"]) == (64, "letterbox")
    assert json.loads((run / "run.json").read_text())["data"]["image_size"] == 64


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits(run, tall, tiny):
    words = ["--data.root", str(tall), "--run_dir", "run"]
    assert main(["fit", *tiny, *SIZE_64, *STEPS, *words, "--trainer.max_epochs", "1"]) == 0
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "2"]) == 0
    whole, resumed = (load_checkpoint(one / "checkpoints/last.ckpt")["state_dict"] for one in (run, Path("run")))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_test_takes_size_and_rule_from_the_checkpoint(run, tall):
    assert main(["test", "--ckpt_path", str(run), "--data.root", str(tall), "--run_dir", "tested"]) == 0
    result = json.loads(Path("tested/test.json").read_text())
    assert result["images"] == 3
    assert Path("tested/mistakes.png").exists() == (result["accuracy"] < 1)
    if result["accuracy"] < 1:
        with Image.open("tested/mistakes.png") as sheet:
            assert sheet.width == 8 * (128 + 6) + 6


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--data.image_size", "32"), "--data.image_size 32: the checkpoint was trained with 64"),
        (("--data.non_square", "crop"), "--data.non_square crop: the checkpoint was trained with letterbox"),
    ],
)
@pytest.mark.parametrize("command", ["test", "fit"])
def test_data_of_another_size_is_refused(run, tall, capsys, command, options, problem):
    words = ["--ckpt_path", str(run / "checkpoints/last.ckpt"), "--data.root", str(tall), "--run_dir", "other"]
    assert main([command, *words, *options]) == 2
    assert capsys.readouterr().err == f"error: {problem}\n"
    assert not Path("other").exists()


@pytest.mark.slow
def test_predict_reads_images_as_in_training(run, tall, capsys):
    paths = sorted(map(str, tall.glob("*/*.png")))
    assert main(["predict", "--ckpt_path", str(run), "--images", *paths, "--format", "jsonl", "--explain", "why"]) == 0
    model = load_pretrained(run / "checkpoints/best.ckpt")
    images = torch.from_numpy(np.stack([read_image(path, Square(64, "letterbox")) for path in paths]))
    expected = model.predict_step(images.permute(0, 3, 1, 2), 0).max(1)
    rows = [json.loads(line)["classes"][0] for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == [("ant", "bee")[label] for label in expected.indices]
    assert [share for _, share in rows] == pytest.approx(expected.values.tolist(), abs=1e-6)
    assert len([*Path("why").glob("*.png")]) == 16


@pytest.mark.slow
def test_serve_reads_images_as_predict_does(run, tall):
    client = pytest.importorskip("fastapi.testclient")
    from lightning_cifar.commands.serve.web import create_application

    model = load_pretrained(run / "checkpoints/best.ckpt")
    path = str(tall / "bee" / "0.png")
    pixels = torch.tensor(read_image(path, Square(64, "letterbox"))).permute(2, 0, 1)[None]
    with client.TestClient(create_application(model)) as page:
        (found,) = page.post("/predict?explain=true", files={"files": Path(path).read_bytes()}).json()["images"]
        assert "the whole image at 64×64 pixels" in page.get("/").text
    assert found["classes"][0]["probability"] == pytest.approx(
        float(model.predict_step(pixels, 0).detach().max()), abs=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix",
    [".safetensors", pytest.param(".pt2", marks=pytest.mark.slow), pytest.param(".onnx", marks=pytest.mark.long)],
)
def test_exports_take_images_of_the_size(run, tall, capsys, suffix):
    file = f"model{suffix}"
    images = ["--images", str(tall)]
    assert main(["export", "--ckpt_path", str(run), "--output", file, *images]) == 0
    card = Path(f"{file}.md").read_text()
    assert "It classifies 64x64 RGB images" in card
    assert "uint8 (B, 3, 64, 64)" in card or "ImageOps.pad" in card
    if suffix == ".safetensors":
        assert main(["test", "--ckpt_path", file, "--data.dataset", "folder", "--data.root", str(tall)]) == 0
        assert get_square(load_pretrained(file).hparams) == Square(64, "letterbox")
    if suffix == ".onnx":
        from onnxruntime import InferenceSession

        (given,) = InferenceSession(file).get_inputs()
        assert given.shape[1:] == [3, 64, 64]
        shutil.copy(tall / "bee" / "0.png", "my.jpg")
        code = card.partition("```python\n")[2].partition("```")[0]
        exec(code.replace("print(", "name = ("), names := {})
        capsys.readouterr()
        assert main(["predict", "--ckpt_path", str(run), "--images", "my.jpg", "--format", "jsonl", "--top", "1"]) == 0
        assert json.loads(capsys.readouterr().out)["classes"][0][0] == names["name"]


@pytest.mark.slow
def test_export_checks_on_the_models_own_images(run, tall, capsys, monkeypatch):
    monkeypatch.setenv("LIGHTNING_CIFAR_DATA", str(tall))
    assert main(["export", "--ckpt_path", str(run), "--output", "model.safetensors"]) == 0
    assert "same class on all of 3 test images" in capsys.readouterr().out
    monkeypatch.delenv("LIGHTNING_CIFAR_DATA")
    args = ["export", "--ckpt_path", str(run), "--output", "named.safetensors", "--data.root"]
    assert main([*args, str(tall / "ant")]) == 2
    assert str(tall / "ant") in capsys.readouterr().err
    assert main([*args, str(tall)]) == 0
    assert "same class on all of 3 test images" in capsys.readouterr().out


@pytest.mark.slow
def test_smaller_training_images_than_tested_ones_are_pointed_out(tall, tiny, capsys):
    words = ["--data.root", str(tall), "--run_dir", "run", "--data.sizes", "[24,32]"]
    assert main(["fit", *tiny, *SIZE_64, *STEPS, *words]) == 0
    line = "note: the last training images have 32x32 pixels, tested ones 64x64: --data.sizes '[48, 64]'"
    assert line in capsys.readouterr().out
