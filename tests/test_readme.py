"""README and docs: every command parses, examples run, links resolve, and tables match the stored results."""

import argparse
import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lightning_cifar import main
from lightning_cifar.commands.sweep.space import parse_space
from lightning_cifar.distributed import Shard
from lightning_cifar.run.settings.options import (
    RECIPES,
    SUBCOMMANDS,
    TRAINER_COMMANDS,
    Arguments,
    check_option,
    last_value,
)

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *sorted(ROOT.glob("docs/*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()


def search_pages(pattern: str, flags: re.RegexFlag = re.MULTILINE) -> list[tuple[Path, str]]:
    return [(page, match) for page in PAGES for match in re.findall(pattern, page.read_text(), flags)]


def name_case(case: object) -> str:
    """Return a test's name: the page, or the first line of the text."""
    return case.stem if isinstance(case, Path) else str(case).split("\n")[0]


# ------------------------------------------------------------------------------------------------------------- commands

# Values for an option that prose mentions without one, as in `fit --resume`.
SAMPLE_VALUES = {
    "--ckpt_path": ["pretrained"],
    "--compare": ["A.json", "B.json"],
    "--config": ["CONFIG"],
    "--explain": ["DIR"],
    "--images": ["DIR"],
    "--resume": ["RUN_DIR"],
    "--run_dir": ["DIR"],
}
# In a recorded command; docs/reproducing.md names what replaced it.
REPLACED = ("--data.small_epochs 10", "--data.sizes [24,32] --data.size_shares [10,8]")
OTHER_PROGRAMS = {"--max-restarts", "--nnodes"}  # options of torchrun


def read_fenced(text: str) -> list[str]:
    """Return the commands of this package in code fences, as typed after its name."""
    lines = "\n".join(re.findall(r"```(?:bash|sh)\n(.+?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    matches = (re.search(r"(?:-m lightning_cifar|(?:^|\| )lightning-cifar) (.+)", line) for line in lines)
    return [shlex.join(shlex.split(match[1], comments=True)) for match in matches if match]


def read_spans(text: str) -> list[str]:
    """Return the contents of inline code."""
    without_fences = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_fences)]


def read_commands(text: str) -> list[str]:
    """Return every command of this package in fences, prose and tables, without the package's name."""
    commands = read_fenced(text)
    for span in read_spans(text):
        words = re.sub(r"^(python -m lightning_cifar|lightning-cifar) ", "", span).split()
        if words[0] in SUBCOMMANDS and (len(words) > 1 or words != span.split()):
            commands.append(" ".join(words))
    return commands


COMMANDS = [*dict.fromkeys(command for page in PAGES for command in read_commands(page.read_text()))]
OPTIONS = sorted({span for page in PAGES for span in read_spans(page.read_text()) if re.match("--[a-z]", span)})


class Parsed(BaseException):
    """Stops a command after its arguments are parsed."""


@pytest.fixture
def parse(monkeypatch, trained, capsys):
    """Parse a command as its users would start it, without running it; fail where it is refused."""

    def stop(self, args=None, namespace=None):
        parsed, rest = argparse.ArgumentParser.parse_known_args(self, args, namespace)
        raise Parsed(parsed, rest)

    def parse_trainer_command(words: list[str]) -> None:
        words = [str(trained) if word in ("runs/report/TIME", "RUN") else word for word in words]
        for option, value in (("--resume", trained), ("--config", trained / "config.yaml")):
            words = [
                str(value) if before == option else word for before, word in zip(["", *words], words, strict=False)
            ]
        words = [str(trained / "checkpoints/last.ckpt") if word.endswith(".ckpt") else word for word in words]
        if words[0] != "fit" and "--ckpt_path" not in words:
            words += ["--ckpt_path", "pretrained"]
        words = [word for word in words if word != "--print_model"]
        status = main([*words, "--print_config"])
        printed = capsys.readouterr()
        assert (status, printed.err) == (0, "")
        assert ("usage:" if "--help-all" in words else "data:") in printed.out

    def parse_other_command(words: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Arguments, "parse_known_args", stop)
            try:
                main(words)
            except Parsed as stopped:
                parsed, rest = stopped.args
            else:
                pytest.fail(capsys.readouterr().err)
        if words[0] == "export":
            assert parsed.output.suffix in (".onnx", ".pt2", ".safetensors")
        if words[0] == "sweep":
            parse_space(parsed.search)
        if words[0] in ("repeat", "sweep") and not getattr(parsed, "compare", None):
            parse_trainer_command(["fit", *rest])
        else:
            assert rest == [], f"error: no such argument: {rest}"

    def parse(command: str) -> None:
        words = shlex.split(re.sub(r"\$\w+", "0", command).replace("--recipe NAME", "--recipe fast"))
        for position in reversed(range(len(words))):
            if words[position] in SAMPLE_VALUES and "".join(words[position + 1 : position + 2])[:2] in ("", "--"):
                words[position + 1 : position + 1] = SAMPLE_VALUES[words[position]]
        needed = {"predict": ["--ckpt_path", "--images"] if "--explain" in words else [], "export": ["--ckpt_path"]}
        for option in needed.get(words[0], []):
            if option not in words:
                words += [option, *SAMPLE_VALUES[option]]
        if words[0] == "predict" and "--images" in words and "--ckpt_path" not in words:
            words += ["--ckpt_path", *SAMPLE_VALUES["--ckpt_path"]]
        if words[0] == "export" and "--output" not in words:
            words += ["--output", "model.onnx"]
        if words in (["doctor"], ["completion"]):
            return  # tests of their own run these
        if words[0] in TRAINER_COMMANDS and "--images" not in words:
            parse_trainer_command(words)
        else:
            parse_other_command(words)

    return parse


def test_there_are_commands():
    assert len(COMMANDS) >= 50
    assert len(OPTIONS) >= 30


@pytest.mark.slow  # .ci/run runs them
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, parse):
    parse(command.replace(*REPLACED))


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--trainer.devices" in command])
def test_batches_of_commands_divide_among_their_processes(command):
    words = shlex.split(command)
    counts = [int(last_value(words, f"--trainer.{name}") or 1) for name in ("devices", "num_nodes")]
    data = yaml.safe_load(RECIPES[last_value(words, "--recipe") or "report"].read_text())["data"]
    Shard(0, counts[0] * counts[1]).check(data["batch_size"], 50_000, data.get("drop_last", False))


@pytest.mark.parametrize("command", ["test --corruptions true", "fit --model.nosuch 1", "report", "export --int9"])
def test_wrong_commands_are_refused(command, parse):
    with pytest.raises((AssertionError, pytest.fail.Exception), match="error:"):
        parse(command)


def test_commands_are_found_in_fences_prose_and_tables():
    text = "```bash\nfind . | python -m lightning_cifar predict \\\n  --images -  # all\n```\n"
    text += "Use `test --corruptions`.\n\n| `lightning-cifar doctor` | `fit` |"
    assert read_commands(text) == ["predict --images -", "test --corruptions", "doctor"]


@pytest.mark.slow  # .ci/run runs them
@pytest.mark.parametrize("span", OPTIONS)
def test_options_named_alone_exist(span, parse):
    name, *value = span.split()
    if name.count(".") == 1 and value:
        return parse("fit " + re.sub(r" N$", " 1", span))
    others = [f'"{name}"' in file.read_text() for file in ROOT.glob("lightning_cifar/commands/**/*.py")]
    if not any(others) and not name.endswith(".NAME") and name not in {"--version", *OTHER_PROGRAMS}:
        check_option(name)
    for search in value if name == "--search" else []:
        assert parse_space([search])
    return None


@pytest.mark.parametrize(
    "target",
    sorted({target for _, target in search_pages(r"(?:^|`)make ([a-z-]+)")} | {*re.findall(r"make (\S+)$", MAKEFILE)}),
)
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_two_first_targets(command):
    assert f"`{command}`" in PAGES[0].read_text()


@pytest.mark.parametrize("extra", sorted({extra for _, extra in search_pages(r"install (?:-e )?'.+?\[(\w+)\]'")}))
def test_extras_exist(extra):
    assert re.search(rf"^{extra} =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)


# ------------------------------------------------------------------------------------------ examples, links, numbers

EXAMPLES = search_pages(r"```python\n(.+?)```", re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize(
    "code",
    [code for page, code in EXAMPLES if page.stem != "export"],  # those need models: tests/commands/export
    ids=name_case,
)
def test_python_examples_run(code):
    limits = "limit_train_batches=2, limit_val_batches=1, limit_test_batches=1"  # two steps run the same code
    code = re.sub(r"max_epochs=\d", f"max_epochs=1, {limits}", code)
    exec(code, {"__name__": "example"})
    for file in re.findall(r'save_checkpoint\("(.+?)"\)', code):
        assert Path(file).exists()


@pytest.mark.parametrize(("page", "link"), search_pages(r"\]\(([^)#]+)(?:#[^)]*)?\)"), ids=name_case)
def test_links_lead_to_files(page, link):
    assert link.startswith("https://") or (page.parent / link).exists()


@pytest.mark.slow
def test_tables_match_the_results(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert import_module("tables").main(check=True) == 0, capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["report", "fast", "fast94", "accurate"])
def test_headers_of_recipes_match_the_results(recipe):
    result = json.loads((ROOT / f"benchmarks/results/{recipe}.json").read_text())
    header = (ROOT / f"lightning_cifar/recipes/{recipe}.yaml").read_text().split("trainer:")[0]
    for number in (
        f"{100 * result['accuracy']['mean']:.2f}",
        f"{100 * result['accuracy_without_tta']['mean']:.2f}",
        f"n = {result['n']}",
        *([] if result.get("shared") else [f"{result['train_seconds']['median']:.0f} s"]),
    ):
        assert number in header
