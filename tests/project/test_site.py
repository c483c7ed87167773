"""Site of the documentation: a strict build, no broken link, nothing loaded from other sites."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADING_ATTRIBUTES = {("img", "src"), ("script", "src"), ("source", "srcset"), ("link", "href")}


class PageLinks(HTMLParser):
    """Links of an HTML page.

    Attributes:
        links: Targets of its links.
        loaded: Addresses of images, scripts and style sheets.
        anchors: Names that a link to a part of the page may use.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name in {"id", "name"}:
                self.anchors.add(value)
            elif (tag, name) in LOADING_ATTRIBUTES:
                self.loaded.add(value)
            elif (tag, name) == ("a", "href"):
                self.links.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_no_link_is_broken(site: Path) -> None:
    # The links of the error page start at the root of the site, which is known only when it is
    # published.
    pages = {page: PageLinks(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert {"index.html", "migration.html", "contributing.html"} <= {page.name for page in pages}
    broken = set()
    for page, page_links in pages.items():
        for link in page_links.links | page_links.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.add((page.name, link))
    assert broken == set()


@pytest.mark.slow
def test_nothing_is_loaded_from_other_sites(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not [address for address in PageLinks(page).loaded if urlsplit(address).netloc]
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?https?:", sheet.read_text("utf-8"))
