"""Names that a terminal, a font or a text encoding cannot show: of classes, files and directories."""

import io
import json
import os
import sys

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from lightning_cifar import main
from lightning_cifar.run.figures import fonts

CLASSES = ("\u732b", "ship $\\frac$ \u00e9", "\U0001f436")


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A folder of images and a run on it, with such class names."""
    root, rng = tmp_path_factory.mktemp("named"), np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for index in range(4):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    args = ["--data.dataset", "folder", "--data.root", str(root), "--data.held_out", "test", "--data.batch_size", "4"]
    args += ["--model.widths", "[4,4,8,8,8]", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    assert main(["fit", *args, "--run_dir", str(root / "run")]) == 0
    return root


@pytest.mark.slow
def test_results_come_first_and_names_are_escaped(named, monkeypatch, tmp_path, drawn_figures):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    test = ["test", "--ckpt_path", str(named / "run"), "--data.root", str(named)]
    assert main([*test, "--run_dir", str(tmp_path / "test \u00e9")]) == 0
    assert set(json.loads((tmp_path / "test \u00e9/test.json").read_text())["per_class"]) == {*CLASSES}
    assert "\\u732b " in stream.buffer.getvalue().decode()
    assert main(["predict", "--ckpt_path", str(named / "run"), "--images", str(named / "test" / CLASSES[0])]) == 0
    assert "/\\u732b/0.png," in stream.buffer.getvalue().decode()
    assert main(["report", str(named / "run"), "--output", "report"]) == 0


@pytest.mark.slow
def test_bytes_that_are_no_text(trained, capsys):
    assert main(["test", "--ckpt_path", str(trained), "--run_dir", "tested"]) == 0
    os.rename("tested", name := "bad\udcff")
    assert main(["report", name]) == 0
    assert "report: bad\\udcff/report/report.html" in capsys.readouterr().out


@pytest.mark.slow
def test_classes_without_a_font_are_numbers(named, monkeypatch, drawn_figures):
    """And no warning; with a font, they are names."""
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    fonts.find_fonts.cache_clear()
    assert fonts.make_drawable(CLASSES) == ["?", "ship \\$\\frac\\$ \u00e9", "?"]
    args = ["--ckpt_path", str(named / "run"), "--run_dir"]
    assert main(["test", *args, "without", "--data.root", str(named)]) == 0
    assert main(["predict", *args[:2], "--images", str(named / "test"), "--explain", "why"]) == 0
    fonts.find_fonts.cache_clear()


def test_an_installed_font_is_found():
    letter = "\ue000"  # matplotlib's STIX fonts have it, its default font does not
    (default, *found), missing = fonts.find_fonts(frozenset(f"a{letter}"))
    assert (default, len(found), missing) == ("DejaVu Sans", 1, frozenset())
    assert not any("Last Resort" in name for name in fonts.find_fonts(frozenset(CLASSES[0]))[0])
