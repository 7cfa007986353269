"""The site has every page and every public name, builds without a warning, and loads nothing external."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import lightning_cifar

ROOT = Path(__file__).parents[1]
OUTSIDE = {"index.md", "security.md", "changelog.md", "contributing.md"}  # docs/hook.py adds them and the notebooks
OUTSIDE |= {f"{file.stem}.md" for file in (ROOT / "notebooks").glob("*.ipynb")}


def iterate_pages(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from iterate_pages(entry)


def test_every_page_is_in_the_navigation_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(iterate_pages(nav)) == sorted(OUTSIDE | {file.name for file in (ROOT / "docs").glob("*.md")})


def test_every_public_name_is_in_the_api():
    named = re.findall(r"^::: lightning_cifar\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(lightning_cifar.__all__)


def test_every_fault_names_a_test_that_exists():
    rows = re.findall(r"\| `(tests/\S+)`: `(test_\w+)` \|", (ROOT / "docs/faults.md").read_text())
    assert len(rows) > 60
    assert [row for row in rows if f"def {row[1]}(" not in (ROOT / row[0]).read_text()] == []


@pytest.mark.long
def test_the_site_builds(tmp_path):
    """Build as `make docs` does; skipped without the extra `docs`."""
    for name in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml"]
    done = subprocess.run([*command, "--site-dir", tmp_path / "site"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").glob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)", page.read_text()
        )
        assert loaded
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)]
    api = (tmp_path / "site/api.html").read_text()
    assert "odd sizes of the N convolutions" in api  # of GatedBlock's docstring
    tour = (tmp_path / "site/tour.html").read_text()
    assert "block 5: (192, 8, 8) to (256, 4, 4)" in tour
    assert 'src="data:image/png;base64,' in tour
    assert '"tour.html"' in (tmp_path / "site/index.html").read_text()
    assert "../benchmarks" not in (tmp_path / "site/results.html").read_text()
