"""Hook of mkdocs: add the pages outside docs/, and rewrite links to files of the repository.

Links to pages become links of the site. Links to other files become plain text.
"""

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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page's text with the links of the site."""
    here = Path(page.file.abs_src_path or "").parent

    def rewrite_link(link: re.Match[str]) -> str:
        text, target, part = link.groups()
        path = (here / target).resolve()
        if "://" in target or not path.exists():  # mkdocs warns of broken links
            return link[0]
        name = path.relative_to(ROOT).as_posix()
        name = OUTSIDE.get(name, name.removeprefix("docs/"))
        return f"[{text}]({name}{part or ''})" if files.get_file_from_path(name) else text

    return re.sub(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", rewrite_link, markdown)
