"""README and docs are true: their commands run, their paths exist, their numbers are those of the evidence."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cifar import main
from lightning_cifar.commands.export import command as export
from lightning_cifar.commands.predict import command as predict
from lightning_cifar.commands.repeat import command as repeat
from lightning_cifar.commands.report import command as report
from lightning_cifar.commands.serve import command as serve
from lightning_cifar.commands.sweep import command as sweep
from lightning_cifar.commands.sweep.space import space_of
from lightning_cifar.run.settings import layer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def in_pages(pattern: str, flags: re.RegexFlag = re.MULTILINE) -> list[tuple[Path, str]]:
    """What the pattern finds, and where."""
    return [(page, found) for page in PAGES for found in re.findall(pattern, page.read_text(), flags)]


def names(found: object) -> str:
    """A test's name from a page, or from the first line of what was found in it."""
    return found.stem if isinstance(found, Path) else str(found).split("\n")[0]


EXAMPLES = in_pages(r"```python\n(.+?)```", re.DOTALL)
TYPED = [command for _, command in in_pages(r"^python -m lightning_cifar (.+?)(?: +#.*)?$")]
LISTED = [
    command for cell in re.findall(r"^\| .+? \| `(.+?)` \| ", README, re.MULTILINE) for command in cell.split("`, `")
]
COMMANDS = [*dict.fromkeys(TYPED + LISTED)]


def test_there_are_commands():
    assert len(COMMANDS) >= 30


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, trained, capsys):
    if command.startswith("export"):
        own = export.parser().parse_args(shlex.split(command)[1:])
        assert export.format_of(own.output, own.format, own.int8)
        return
    if "--images" in command:
        assert predict.parser().parse_args(shlex.split(command)[1:]).images
        return
    if command.startswith("serve"):
        assert serve.parser().parse_args(command.split()[1:]).ckpt_path
        return
    if command.startswith("repeat"):
        own, rest = repeat.parser().parse_known_args(command.split()[1:])
        assert own.compare or layer(["fit", *rest])[0] == "fit"
        return
    if command.startswith("sweep"):
        own, rest = sweep.parser().parse_known_args(command.split()[1:])
        assert len(space_of(getattr(own, "search", []))) == command.count("--search")
        assert layer(["fit", *rest])[0] == "fit"
        return
    if command in ("doctor", "completion"):
        return  # run by tests of their own
    if command.startswith("report"):
        assert report.parser().parse_args(command.split()[1:]).runs
        return
    command = command.replace("runs/report/TIME", str(trained)).replace(" --print_model", "")
    assert main([*command.split(), "--print_config"]) == 0
    assert "data:" in capsys.readouterr().out


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)", README, re.MULTILINE))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize(
    "code",
    [code for page, code in EXAMPLES if page.stem != "export"],  # those need models: tests/commands/test_export.py
    ids=names,
)
def test_python_examples_run(code):
    code = re.sub(r"max_epochs=\d", "max_epochs=1, limit_train_batches=2", code)  # what more do, two steps do
    exec(code, {"__name__": "example"})
    for file in re.findall(r'save_checkpoint\("(.+?)"\)', code):
        assert Path(file).exists()


@pytest.mark.parametrize(("page", "link"), in_pages(r"\]\(([^)#]+)(?:#[^)]*)?\)"), ids=names)
def test_links_lead_somewhere(page, link):
    assert link.startswith("https://") or (page.parent / link).exists()


def test_tables_are_those_of_the_evidence():
    subprocess.run([sys.executable, ROOT / "benchmarks/tables.py", "--check"], check=True)


@pytest.mark.parametrize("recipe", ["fast", "fast94", "accurate"])
def test_headers_of_recipes_are_those_of_the_evidence(recipe):
    result = json.loads((ROOT / f"benchmarks/results/{recipe}.json").read_text())
    header = (ROOT / f"lightning_cifar/recipes/{recipe}.yaml").read_text().split("trainer:")[0]
    for number in (
        f"{100 * result['accuracy']['mean']:.2f}",
        f"{100 * result['accuracy_without_tta']['mean']:.2f}",
        f"n = {result['n']}",
        f"{result['train_seconds']['median']:.0f} s",
    ):
        assert number in header
