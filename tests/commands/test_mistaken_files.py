"""Mistakes and predictions of an image folder name the files, in every layout."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifar.sources.folder import load_folder
from tests.command_line import run


def write_labels(root: Path) -> list[str]:
    files = sorted((root / "train").glob("*/*"))
    rows = [f"{file.relative_to(root)},{file.parent.name}" for file in files]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return ["--data.labels", "labels.csv"]


LAYOUTS = {
    "test": lambda root: [],
    "val": lambda root: shutil.rmtree(root / "test") or [],
    "train": lambda root: shutil.rmtree(root / "test") or shutil.rmtree(root / "val") or [],
    "labels": write_labels,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_belong_to_the_tested_images(image_folder, layout):
    labels = LAYOUTS[layout](image_folder)[1:]
    data = load_folder(image_folder, *(image_folder / name for name in labels))
    assert len(data.test_files) == len(data.test) > 0
    for file, image, label in zip(data.test_files, data.test.images, data.test.labels, strict=True):
        assert (image.permute(1, 2, 0).numpy() == np.array(Image.open(image_folder / file))).all()
        assert data.class_names[label] == Path(file).parent.name


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_commands_name_the_files_of_mistakes(image_folder, tiny, capsys, in_memory):
    folder = ["--data.dataset", "folder", "--data.batch_size", "4", "--trainer.log_every_n_steps", "1"]
    root = ["--data.root", str(image_folder), "--data.val_size", "1"]
    shutil.rmtree(image_folder / "test")
    shutil.rmtree(image_folder / "val")
    assert run(capsys, "fit", *tiny, *folder, *root, "--run_dir", "run")[0] == 0
    checkpoint = ["--ckpt_path", "run", "--data.in_memory", in_memory, "--data.num_workers", "0", *root]
    _, out, _ = run(capsys, "test", *checkpoint, "--run_dir", "test")
    assert "\nmistakes: test/mistakes.png\n" in out
    mistakes = json.loads(Path("test/test.json").read_text())["mistakes"]
    assert run(capsys, "predict", *checkpoint, "--run_dir", "predicted")[0] == 0
    rows = [*csv.DictReader(Path("predicted/predictions.csv").read_text().splitlines())]
    assert run(capsys, "report", "run")[0] == 0
    page = Path("run/report/report.html").read_text()
    for mistake in mistakes:
        assert mistake["file"].split("/")[-2] == mistake["label"]
        assert rows[mistake["index"]]["file"] == mistake["file"]
        assert f"<small>{mistake['file']}</small>" in page
    assert len(mistakes) > 0
