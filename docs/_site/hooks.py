"""MkDocs hooks: pages from outside ``docs``, and links between pages.

A link between two pages works in the repository and on the site. A link to any other file of the
repository becomes the file's name, because the site does not know where the repository is hosted.
A link to a missing file is left unchanged and fails the strict build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
EXTERNAL_PAGES: Final = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "mini.md": "rerank_plugins/models/mini/MODEL_CARD.md",
}
"""Pages of the site that are files outside ``docs``."""

_PAGE_OF_FILE: Final = {file: page for page, file in EXTERNAL_PAGES.items()}
_CODE: Final = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_PICTURE: Final = re.compile(r'(\bsrc(?:set)?=")docs/')
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the external pages, and put pages missing in the navigation at its end."""
    for page, file in EXTERNAL_PAGES.items():
        content = (ROOT / file).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    listed = set(_leaves(config.nav))
    pages = (file.src_uri for file in files.documentation_pages())
    missing = sorted(page for page in pages if page not in listed)
    if missing:
        config.nav = [*(config.nav or []), {"More": missing}]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links and picture paths from the repository's layout to the site's."""
    del config
    source = EXTERNAL_PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def resolve(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        inside = file.removeprefix("docs/") if file.startswith("docs/") else ""
        target_page = _PAGE_OF_FILE.get(file, inside)
        if target_page and files.get_file_from_path(target_page):
            start = posixpath.dirname(page.file.src_uri) or "."
            return f"[{text}]({posixpath.relpath(target_page, start)}{anchor})"
        return f"{text} (`{file}`)" if (ROOT / file).exists() else match[0]

    pieces, end = [], 0
    for code in _CODE.finditer(markdown):
        if "](" in code[0] or code[0].startswith("```"):
            pieces += [_LINK.sub(resolve, markdown[end : code.start()]), code[0]]
            end = code.end()
    linked = "".join([*pieces, _LINK.sub(resolve, markdown[end:])])
    return _PICTURE.sub(r"\1", linked) if source in EXTERNAL_PAGES.values() else linked


def _leaves(nav: Any) -> list[str]:  # noqa: ANN401  (YAML)
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav or []
    return [leaf for part in parts for leaf in _leaves(part)]
