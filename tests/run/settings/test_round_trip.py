"""What a run writes is read back as it was: every name and value of a configuration, plain values of checkpoints."""

import contextlib
import io
import string
from collections import OrderedDict, namedtuple
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_cifar import CIFAR10DataModule, ImageClassifier, main
from lightning_cifar.run.weights import load_pretrained
from tests.trainer import make_quiet_trainer

LOOKALIKES = ["1e5", "null", "yes", "~", "0x1F", "1_000", "12:30", "=", "<<", "on", "2024-01-01", ".inf", "NaN", "-1E9"]


def print_config(*args: object) -> dict:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["fit", "--recipe", "demo", *map(str, args), "--print_config"]) == 0
    Path("printed.yaml").write_text(out.getvalue())
    return yaml.safe_load(out.getvalue())


@pytest.mark.slow
def test_configuration_is_read_back_as_it_was_written():
    from hypothesis import example, given, settings
    from hypothesis import strategies as st

    lookalikes = st.sampled_from(LOOKALIKES) | st.text(string.digits + "eE+-._:xo", min_size=1, max_size=6)
    printable = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/")
    names = st.lists(lookalikes | st.text(printable, min_size=1), min_size=10, max_size=10)

    @settings(max_examples=6, deadline=None, database=None, derandomize=True)
    @given(names, lookalikes, st.floats(1e-12, 1e12), st.integers(1, 31))
    @example(LOOKALIKES[:10], "1e5", 1e-5, 1)
    @example(LOOKALIKES[4:], "-1E9", 1e20, 1)
    def check(names: list[str], root: str, rate: float, size: int) -> None:
        model, data = {"class_names": names, "learning_rate": rate}, {"root": "x" + root, "cutout": size}
        Path("config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}, default_style='"'))
        first = print_config("--config", "config.yaml")
        assert first["model"]["class_names"] == names
        assert (first["model"]["learning_rate"], first["data"]["cutout"]) == (rate, size)
        assert print_config("--config", "printed.yaml") == first

    check()


SLOW = [["0x1F", "12:30", "on"], ["-1E9", "a: b", "#c"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["1e5", "null", "yes"], *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]
)
def test_run_on_folders_of_any_name_is_repeated_and_resumed(tmp_path, names):
    for split in ("train", "test"):
        for name in names:
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (32, 32), (100 * number, 0, 9)).save(
                    tmp_path / "images" / split / name / f"{number}.png"
                )
    args = [
        "--data.dataset",
        "folder",
        "--data.root",
        "images",
        "--data.held_out",
        "test",
        "--model.widths",
        "[4,4,4,4,4]",
    ]
    args += ["--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    assert main(["fit", *args, "--run_dir", "run"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["class_names"] == sorted(names)
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "2"]) == 0
    assert main(["fit", "--config", "run/config.yaml", "--run_dir", "again"]) == 0


class Shape(StrEnum):
    CROP = "crop"


def test_values_of_other_types_become_plain_values():
    names = namedtuple("Names", ["first", "second"])("cat", "dog")
    data = CIFAR10DataModule("digits", non_square=Shape.CROP, sizes=range(31, 33), classes=frozenset(["cat"])).hparams
    assert [(type(data[name]), data[name]) for name in ("non_square", "sizes", "classes")] == [
        (str, "crop"), (list, [31, 32]), (list, ["cat"])
    ]  # fmt: skip
    model = ImageClassifier(2, class_names=names, widths=range(4, 9), optimizer_args=OrderedDict(eps=1e-7)).hparams
    assert type(model["class_names"]) in (list, tuple)
    assert model["widths"] == [4, 5, 6, 7, 8]
    assert type(model["optimizer_args"]) is dict


@pytest.mark.slow
def test_values_of_other_libraries_become_plain_values_in_checkpoints(tmp_path):
    data = {"root": Path("here"), "archive": Path("x.tar.gz"), "flip": np.bool_(True), "cutout": torch.tensor(4)}
    data |= {"val_size": np.int64(100), "batch_size": np.int32(200)}
    data |= {"sizes": np.array([24, 32]), "size_shares": (np.float32(1), 2)}
    model = {"class_names": np.array(list("0123456789")), "widths": np.full(5, 8), "compile": np.bool_(False)}
    model |= {"learning_rate": np.float64(1e-3), "mean": np.full(3, 0.5), "std": torch.full((3,), 0.5)}
    trainer = make_quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, log_every_n_steps=1)
    trainer.fit(ImageClassifier(**model), CIFAR10DataModule("digits", **data))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    stored = torch.load(tmp_path / "x.ckpt", weights_only=True)
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        assert yaml.safe_load(yaml.safe_dump(dict(stored[name]))).keys() == stored[name].keys()
    ImageClassifier.load_from_checkpoint(tmp_path / "x.ckpt")
    load_pretrained(tmp_path / "x.ckpt")
    assert main(["test", "--ckpt_path", str(tmp_path / "x.ckpt"), "--run_dir", "t"]) == 0
