"""Makes a site of the files that GitHub shows: pages from outside ``docs``, and their links.

A link between two pages works in both. A link to any other file of the repository becomes the
file's name on the site, which does not know where the repository is hosted. A link to nothing is
left as it is, and fails the strict build.
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
GUESTS: Final = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "mini.md": "rerank_plugins/models/mini/MODEL_CARD.md",
}
"""Pages of the site, and the files outside ``docs`` that they are."""

_HOSTS: Final = {file: page for page, file in GUESTS.items()}
_CODE: Final = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_PICTURE: Final = re.compile(r'(\bsrc(?:set)?=")docs/')
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside, and put pages that the navigation forgot at its end."""
    for page, file in GUESTS.items():
        content = (ROOT / file).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    named = set(_leaves(config.nav))
    left = sorted(one.src_uri for one in files.documentation_pages() if one.src_uri not in named)
    if left:
        config.nav = [*(config.nav or []), {"More": left}]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead where they lead on GitHub."""
    del config
    source = GUESTS.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def resolved(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        here = _HOSTS.get(file, file.removeprefix("docs/") if file.startswith("docs/") else "")
        if here and files.get_file_from_path(here):
            start = posixpath.dirname(page.file.src_uri) or "."
            return f"[{text}]({posixpath.relpath(here, start)}{anchor})"
        return f"{text} (`{file}`)" if (ROOT / file).exists() else match[0]

    pieces, end = [], 0
    for code in _CODE.finditer(markdown):
        if "](" in code[0] or code[0].startswith("```"):
            pieces += [_LINK.sub(resolved, markdown[end : code.start()]), code[0]]
            end = code.end()
    linked = "".join([*pieces, _LINK.sub(resolved, markdown[end:])])
    return _PICTURE.sub(r"\1", linked) if source in GUESTS.values() else linked


def _leaves(nav: Any) -> list[str]:  # noqa: ANN401  (YAML)
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav or []
    return [leaf for part in parts for leaf in _leaves(part)]
