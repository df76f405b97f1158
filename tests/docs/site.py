"""Lays the pages out for the site, and looks at what was built: `make docs`."""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docs.tree import ROOT, lay_out

BUILT = ROOT / ".build" / "site"
LOADING = {"src", "srcset", "data", "poster"}
"""Attributes whose target is fetched with the page; `href` is, too, in a `link`."""


class Page(HTMLParser):
    """The ids of a page, what it loads, and what it links to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what an element has."""
        said = {name: value for name, value in attrs if value is not None}
        self.ids |= {value for name, value in said.items() if name == "id" or (name == "name" and tag == "a")}
        self.loads += [value for name, value in said.items() if name in LOADING and tag not in ("form", "input")]
        if "href" in said:
            (self.loads if tag == "link" and said.get("rel") != "canonical" else self.links).append(said["href"])


def complaints(site: Path = BUILT) -> Iterator[str]:
    """What is wrong with a built site: links that lead nowhere, and what would be fetched from elsewhere."""
    pages = {file.resolve(): Page(file) for file in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} has no pages"
    for file, page in pages.items():
        if file.name == "404.html":
            continue
        name = file.relative_to(site.resolve())
        yield from (f"{name} loads {one}" for one in page.loads if _leaves(one))
        for target in (*page.links, *page.loads):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or (not parts.path and not parts.fragment):
                continue
            wanted = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            wanted = wanted / "index.html" if wanted.is_dir() else wanted
            if not wanted.exists():
                yield f"{name} links to {target}, which isn't there"
            elif parts.fragment and wanted in pages and unquote(parts.fragment) not in pages[wanted].ids | {"__top"}:
                yield f"{name} links to {target}: no such place on that page"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        if "@import" in text or "url(http" in text or "url(//" in text:
            yield f"{sheet.relative_to(site)} loads something"


def _leaves(target: str) -> bool:
    """Whether a target is on another host."""
    parts = urlsplit(target)
    return parts.scheme in ("http", "https", "ws", "wss") or bool(parts.netloc)


def main(words: list[str]) -> int:
    """`lay-out` or `check`. Returns the exit code."""
    if words == ["lay-out"]:
        lay_out()
        return 0
    found = list(complaints())
    for one in found:
        sys.stderr.write(f"{one}\n")
    if not found:
        folder = BUILT.relative_to(ROOT)
        sys.stdout.write(f"built: {folder}/index.html\n")
        sys.stdout.write(f"with the search: python3 -m http.server --bind 127.0.0.1 --directory {folder}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
