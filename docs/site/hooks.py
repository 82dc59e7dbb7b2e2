"""The site's pages are the repository's: the README is its first one, and what lies outside docs/ is in source/."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[2]
_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    pages = [path.read_text(encoding="utf-8") for path in Path(config.docs_dir).glob("*.md")]
    for path in {found for page in pages for found in _OUTSIDE.findall(page)} - {"README.md"}:
        files.append(File.generated(config, f"source/{path}", abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    return _OUTSIDE.sub(r"](source/\1", markdown.replace("](../README.md", "](index.md"))
