"""The notebooks run from top to bottom, show what they promise, and lie in git without output."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_stripped(file):
    for cell in nbformat.read(file, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


def test_quickstart(tmp_path):
    notebook = nbformat.read(next(file for file in NOTEBOOKS if file.stem == "quickstart"), as_version=4)
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    train, test, _, pictures = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    live = [output for output in train if "image/png" in output.get("data", {})]
    assert len(live) == 1  # redrawn in place: one figure, however often it was drawn
    result = eval(test[-1]["data"]["text/plain"])
    assert result["test/accuracy"] >= 0.95
    assert any("image/png" in output.get("data", {}) for output in pictures)
    assert (tmp_path / "runs/notebook/version_0/curves.png").exists()
