"""Hook of mkdocs: add the pages outside docs/ and the notebooks, and rewrite links to files of the repository.

Links to pages become links of the site. Links to other files become plain text. No line breaks within an option.
"""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
NOTEBOOKS = {f"notebooks/{file.name}": f"{file.stem}.md" for file in sorted(ROOT.glob("notebooks/*.ipynb"))}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and the notebooks."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for name, page in NOTEBOOKS.items():
        files.append(File.generated(config, page, content=format_notebook(ROOT / name)))
    return files


def format_notebook(file: Path) -> str:
    """Return a notebook as Markdown, with the text and the figures that its cells have shown."""
    parts = []
    for cell in json.loads(file.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if figure := data.get("image/png"):
                parts.append(f'<img alt="output of the cell above" src="data:image/png;base64,{figure.strip()}">')
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page's text with the links of the site."""
    here = Path(page.file.abs_src_path or ROOT / "notebooks/any").parent  # a notebook's page is generated

    def rewrite_link(link: re.Match[str]) -> str:
        text, target, part = link.groups()
        path = (here / target).resolve()
        if "://" in target or not path.exists():  # mkdocs warns of broken links
            return link[0]
        name = path.relative_to(ROOT).as_posix()
        name = (OUTSIDE | NOTEBOOKS).get(name, name.removeprefix("docs/"))
        return f"[{text}]({name}{part or ''})" if files.get_file_from_path(name) else text

    return re.sub(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", rewrite_link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page's HTML with every option in inline code kept on one line."""

    def keep_options(code: re.Match[str]) -> str:
        return re.sub(
            r"(?<![^ >])--?[\w.-]{1,40}(?![^ =<])", r'<span style="white-space: nowrap">\g<0></span>', code[0]
        )

    return re.sub(r"<code>[^<]*</code>", keep_options, html)
