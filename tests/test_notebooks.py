"""The notebooks run from top to bottom, show their figures and numbers."""

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SHAPES = ("circle", "square", "triangle")


@pytest.mark.parametrize("name", ["networks", "own_data", "quickstart", "tour"])
def test_notebooks_are_stored_with_their_outputs(name):
    """As they ran from top to bottom, on CIFAR-10 where a notebook looks for it: docs/hook.py makes pages of them."""
    (file,) = (file for file in NOTEBOOKS if file.stem == name)
    cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert count_figures(outputs) >= (1 if name == "networks" else 2)
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result", "stream"}
    errors = [output.text for output in outputs if output.get("name") == "stderr"]
    assert errors == (["explanations: why\n"] if name == "own_data" else [])  # predict's table is on standard output
    ends = [cell.source.splitlines()[-1] for cell in cells]
    assert [end for end in ends if end.startswith("main(") and end[-1] != ";"] == []  # it would show its exit status
    assert "site-packages" not in file.read_text()
    assert file.stat().st_size < 1_500_000


def serve_kernel(connection: Path, directory: Path) -> None:
    """In the child: be a Jupyter kernel in the directory until it is killed."""
    from ipykernel.kernelapp import IPKernelApp

    os.chdir(directory)
    IPKernelApp.launch_instance(["-f", str(connection), "--HistoryManager.hist_file=:memory:"])


@pytest.fixture
def run_notebook(start, tmp_path) -> Callable[..., list[list[Any]]]:
    """Runs a notebook here, with other values of named options; returns the outputs of each code cell.

    Its kernel is forked from a process that has imported the package: a new one imports for ten seconds.
    """
    jupyter_client = pytest.importorskip("jupyter_client")
    pytest.importorskip("ipykernel")

    def run(name: str, **shorter: str) -> list[list[Any]]:
        connection, _ = jupyter_client.connect.write_connection_file(str(tmp_path / "kernel.json"))
        start("--version", prepare=partial(serve_kernel, Path(connection), tmp_path))
        client = jupyter_client.BlockingKernelClient(connection_file=connection)
        client.load_connection_file()
        client.start_channels(hb=False)  # which takes a busy machine for a dead one
        try:
            client.wait_for_ready(timeout=120)
            cells = nbformat.read(next(file for file in NOTEBOOKS if file.stem == name), as_version=4).cells
            return [execute(client, cell.source, shorter) for cell in cells if cell.cell_type == "code"]
        finally:
            client.stop_channels()

    return run


def execute(client: Any, source: str, shorter: dict[str, str]) -> list[Any]:
    """Run a cell; return its outputs. One that is redrawn in place is one."""
    for option, value in shorter.items():
        source = re.sub(rf"\b{option}( ?= ?)\d+", rf"{option}\g<1>{value}", source)
    shown: list[Any] = []
    reply = client.execute_interactive(source, timeout=600, output_hook=shown.append)["content"]
    assert reply["status"] == "ok", "\n".join(reply["traceback"])
    return [one["content"] for one in shown if one["msg_type"] in ("display_data", "execute_result", "stream")]


def count_figures(shown: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in shown)


def read_text(shown: list[Any]) -> str:
    return "".join(output.get("text", "") for output in shown)


@pytest.mark.slow
def test_quickstart(run_notebook, tmp_path):
    train, test, _, predicted = run_notebook("quickstart", max_epochs="2")
    assert count_figures(train) == 1  # redrawn in place
    result = eval(test[-1]["data"]["text/plain"])
    assert result["test/accuracy"] >= 0.8
    assert count_figures(predicted) == 1
    assert (tmp_path / "runs/notebook/version_0/curves.png").exists()


@pytest.mark.long
def test_tour(run_notebook):
    _, shapes, by_class, spread, extremes, averaged, explained = run_notebook("tour")
    assert "block 5: (128, 2, 2) to (128, 1, 1)" in read_text(shapes)
    assert [count_figures(shown) for shown in (by_class, extremes, explained)] == [1, 1, 3]
    assert read_text(spread).count("% zero") == 5
    (accuracy,) = re.findall(r"accuracy (.+)%", read_text(shapes))
    assert float(accuracy) >= 95
    assert re.search(rf"as trained: +{accuracy}%", read_text(averaged))
    assert "in all blocks" in read_text(averaged)


@pytest.mark.slow
def test_tour_with_the_pretrained_model(run_notebook, tmp_path, drawn_folder):
    for part in ("train", "test"):
        shutil.copytree(drawn_folder, tmp_path / "data" / part)
    first, shapes, *_, averaged, explained = run_notebook("tour")
    assert "1 network(s); folder: 20 test images of airplane, " in read_text(first)
    assert "accuracy " in read_text(shapes)
    assert len(re.findall(r"(?:block \d|blocks): +[\d.]+%, \d+ changed", read_text(averaged))) == 6
    assert count_figures(explained) == 3


@pytest.mark.long
def test_own_data(run_notebook, tmp_path):
    _, _, fitted, figures, tested, reported, predicted, exported = run_notebook("own_data")
    assert "the last layer is new, for 3 classes" in read_text(fitted)
    assert count_figures(figures) == 2
    (accuracy,) = re.findall(r"accuracy +([\d.]+) ?%", read_text(tested))
    assert float(accuracy) >= 80
    assert (tmp_path / "page/report.html").exists(), read_text(reported)
    assert re.findall(r"new/(\w+)\.png +(\w+)", read_text(predicted)) == [(shape, shape) for shape in SHAPES]
    assert count_figures(predicted) == len(SHAPES)
    assert "shapes.safetensors" in read_text(exported)


@pytest.mark.long
def test_networks(run_notebook, tmp_path):
    _, timed, trained, compared, drawn = run_notebook("networks", seeds="2")
    steps = eval(timed[-1]["data"]["text/plain"])
    assert steps["five_block"] == 120
    assert 1 <= steps["wide_resnet16_1"] <= 2 * steps["five_block"]
    for network, number in steps.items():
        assert json.loads((tmp_path / f"runs/compare/{network}/repeat.json").read_text())["seeds"][0]["steps"] == number
    assert read_text(trained).count("test accuracy") == 2 * 3  # each seed and the mean
    assert "95 % interval  significant" in read_text(compared)
    assert count_figures(drawn) == 1
