"""The shape of the package: imports go one way, no circles, no long modules, a core that imports nothing above it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_cifar"
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or not file.name.startswith("__"))
LAYERS = ("ground", "data", "model", "train", "sources", "networks", "run", "evaluate", "commands")
DOORS = [PACKAGE / name for name in ("data/source.py", "model/named.py", "imports.py")]  # the last: what users trust
CORE_LINES, MODULE_LINES = 2700, 250  # the core's without blank lines


def layer(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0] if file.parent != PACKAGE else "ground"


@cache
def imported(file: Path, late: bool) -> frozenset[Path]:
    """Modules of this package that ``file`` imports when it is imported; ``late``: also inside functions."""
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if late else outside_functions(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning_cifar"):
            base = PACKAGE.joinpath(*node.module.split(".")[1:])
            for name in node.names:
                paths = (base / f"{name.name}.py", base.with_suffix(".py"), base / "__init__.py")
                found.add(next(path for path in paths if path.is_file()))
    return frozenset(found - {PACKAGE / "__init__.py", PACKAGE.with_suffix(".py")})


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from outside_functions(child)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_nothing_above_its_layer(file):
    """But for what `DOORS` import by name at run time: commands, sources of images and other networks."""
    named = "import_module(" in file.read_text() and file not in DOORS
    assert not (named and layer(file) in LAYERS[:4]), "import_module hides what the core imports"
    own = LAYERS.index(layer(file))
    assert [str(one.relative_to(PACKAGE)) for one in imported(file, late=True) if LAYERS.index(layer(one)) > own] == []


def test_no_import_circle():
    """Not for types either: annotations are imported as everything else is."""
    done: set[Path] = set()

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, " -> ".join(one.name for one in (*path, file))
        if file not in done:
            for one in imported(file, late=False):
                visit(one, (*path, file))
            done.add(file)

    for file in FILES:
        visit(file, ())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_can_be_read_in_one_sitting(file):
    assert len(file.read_text().splitlines()) <= MODULE_LINES


def test_the_core_can_be_read_in_one_sitting():
    core = [file for file in FILES if layer(file) in ("ground", "data", "model", "train")]
    assert sum(bool(line.strip()) for file in core for line in file.read_text().splitlines()) <= CORE_LINES


@pytest.mark.parametrize(
    "folder", sorted(path for path in (PACKAGE / "commands").iterdir() if path.is_dir()), ids=lambda path: path.name
)
def test_a_command_can_be_removed_with_its_folder(folder):
    """No other module imports it, except itself; `options.PACKAGE_COMMANDS` names it in one line."""
    others = [file for file in FILES if folder not in file.parents]
    assert [file for file in others if any(folder in one.parents for one in imported(file, late=True))] == []
