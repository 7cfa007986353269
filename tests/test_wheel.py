"""The wheel: built by `python -m build`, installed outside the checkout, it trains and predicts."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from lightning_cifar import load_pretrained
from lightning_cifar.evaluate.prediction import predict_files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def run(*command: object, **options: object) -> subprocess.CompletedProcess:
    """Run a program outside the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources: setuptools writes into the directory it builds from."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(ROOT / "lightning_cifar", sources / "lightning_cifar", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, sources, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of a new environment with the wheel; dependencies come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    install = ["-m", "pip", "--python", programs / "python", "install", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, *install, "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # After the environment's own packages, so that the wheel's package wins over that of the tests; a path only, for
    # .pth files there, as of an editable installation, are not read.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return programs


def test_the_wheel_holds_the_data_of_the_package(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    data = [file for file in (ROOT / "lightning_cifar").rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert files >= {file.relative_to(ROOT).as_posix() for file in data}
    assert {Path(file).suffix for file in files} >= {".yaml", ".jinja", ".html", ".safetensors", ".py"}
    assert not any(file.startswith(("tests", "docs", "benchmarks")) for file in files)


def test_the_installed_package_trains_and_predicts(installed, tiny, tmp_path, drawn_folder):
    code = "import lightning_cifar; print(lightning_cifar.__file__)"
    where = run(installed / "python", "-c", code, cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(installed.parent)
    program = installed / "lightning-cifar"
    assert run(program, "--version", cwd=tmp_path).stdout == f"lightning-cifar {version('lightning-cifar')}\n"
    done = run(program, "fit", *tiny, "--run_dir", tmp_path / "run", cwd=tmp_path)
    starts = ("run directory:", "epoch", "  1/1", "curves:", "metrics:", "checkpoint:", "test it:")  # nothing else
    assert [line.startswith(start) for line, start in zip(done.stdout.splitlines(), starts, strict=True)] == [True] * 7
    assert done.stderr == ""
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["versions"]["lightning-cifar"] == version("lightning-cifar")
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()
    image = drawn_folder / "bird/0000.jpg"
    predict = ["predict", "--ckpt_path", "pretrained", "--images", image, "--format", "csv"]
    header, row = run(program, *predict, cwd=tmp_path).stdout.splitlines()
    assert header.startswith("file,class,probability")
    (expected,) = predict_files(load_pretrained(), [str(image)], 1, 1)
    assert row.split(",")[1] == expected["classes"][0][0]
