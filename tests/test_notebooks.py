"""The notebooks run from top to bottom, show what they promise, and lie in git without output."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SHAPES = ("circle", "square", "triangle")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_stripped(file):
    for cell in nbformat.read(file, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


def outputs(name: str, directory: Path, **shorter: str) -> list[list[Any]]:
    """What each code cell of the notebook shows, run in the directory, with other values of what is named."""
    notebook = nbformat.read(next(file for file in NOTEBOOKS if file.stem == name), as_version=4)
    for cell in notebook.cells:
        for option, value in shorter.items():
            cell.source = re.sub(rf"\b{option}=\d+", f"{option}={value}", cell.source)
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(directory)}}).execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def pictures(shown: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in shown)


def text(shown: list[Any]) -> str:
    return "".join(output.get("text", "") for output in shown)


@pytest.mark.slow
def test_quickstart(tmp_path):
    train, test, _, predicted = outputs("quickstart", tmp_path, max_epochs="2")
    assert pictures(train) == 1  # redrawn in place: one figure, however often it was drawn
    result = eval(test[-1]["data"]["text/plain"])
    assert result["test/accuracy"] >= 0.8
    assert pictures(predicted) == 1
    assert (tmp_path / "runs/notebook/version_0/curves.png").exists()


@pytest.mark.slow
def test_tour(tmp_path):
    _, shapes, by_class, spread, extremes, held, explained = outputs("tour", tmp_path)
    assert "block 5: (128, 2, 2) to (128, 1, 1)" in text(shapes)
    assert [pictures(shown) for shown in (by_class, extremes, explained)] == [1, 1, 3]
    assert text(spread).count("shut") == 5
    (accuracy,) = re.findall(r"accuracy (.+)%", text(shapes))
    assert float(accuracy) >= 95
    assert re.search(rf"as trained: +{accuracy}%", text(held))
    assert "all held" in text(held)


@pytest.mark.slow
def test_tour_of_the_model_in_the_package(tmp_path, drawn_folder):
    for part in ("train", "test"):
        shutil.copytree(drawn_folder, tmp_path / "data" / part)
    first, shapes, *_, held, explained = outputs("tour", tmp_path)
    assert "2 network(s); folder: 20 test images of airplane, " in text(first)
    assert "accuracy of the first network" in text(shapes)
    assert len(re.findall(r"held: +[\d.]+%, \d+ otherwise", text(held))) == 6
    assert pictures(explained) == 3


@pytest.mark.slow
def test_own_data(tmp_path):
    _, _, test, predicted, explained = outputs("own_data", tmp_path)
    assert eval(test[-1]["data"]["text/plain"])["test/accuracy"] >= 0.95
    assert re.findall(r"new/(\w+)\.png +(\w+)", text(predicted)) == [(shape, shape) for shape in SHAPES]
    assert pictures(explained) == len(SHAPES)
