"""The tree of pages that the site is built from: docs/, and what its pages link to elsewhere in the repository.

A page links to files beside docs/ as the repository has them: tests, rules, manifests, the clients' READMEs. On the
site the READMEs are pages of their own, and every other file is one with its text and a number for each line, so that
no link leads out of what was built.
"""

import html
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LAID_OUT = ROOT / ".build" / "pages"
"""Where zensical.toml looks for pages."""

LIST_ITEM = re.compile(r"( *)([*-]|\d+\.) ")
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^ *(?P=ticks) *$", re.DOTALL | re.MULTILINE
)

ELSEWHERE: Mapping[str, str] = {
    "CHANGELOG.md": "changelog.md",
    "THIRD-PARTY-NOTICES.md": "third-party-notices.md",
    **{f"clients/{name}/README.md": f"clients/{name}.md" for name in ("go", "java", "python", "typescript")},
}
"""Pages of the site that aren't in docs/, by their path in the repository."""
RENAMED: Mapping[str, str] = {"docs/benchmarks/README.md": "benchmarks/figures.md"}
"""`make bench` writes an index.html beside that README."""
NO_FIGURES = (
    "# Benchmarks\n\nThis checkout has no figures. `make bench` measures them ([performance](../performance.md)).\n"
)

SOURCE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>
:root {{ color-scheme: light dark }} body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem }}
pre {{ font: 13px/1.5 ui-monospace, monospace; tab-size: 4 }} :target {{ background: #ffd54a66 }}
pre a {{ color: #8888; display: inline-block; width: 3.5em; text-decoration: none; user-select: none }}
</style></head><body><p><a href="{home}">RewardService</a></p><h1>{name}</h1>
<pre>{lines}</pre></body></html>
"""


def pages() -> dict[Path, str]:
    """The files that become pages, each with its path on the site."""
    found = {file: place_of(file) for file in sorted(DOCS.rglob("*.md"))}
    return found | {ROOT / name: place for name, place in ELSEWHERE.items()}


def place_of(file: Path) -> str:
    """Where on the site a file of the repository stands."""
    name = file.relative_to(ROOT).as_posix()
    if name in ELSEWHERE or name in RENAMED:
        return {**ELSEWHERE, **RENAMED}[name]
    return name.removeprefix("docs/") if name.startswith("docs/") else f"source/{name}.html"


def lay_out(into: Path = LAID_OUT) -> None:
    """Writes the tree anew."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(DOCS, into, ignore=shutil.ignore_patterns("*.md", ".*"))
    linked: set[Path] = set()
    for file, place in pages().items():
        (into / place).parent.mkdir(parents=True, exist_ok=True)
        (into / place).write_text(_on_the_site(file, place, linked), "utf-8")
    if not (into / "benchmarks/figures.md").exists():
        (into / "benchmarks").mkdir(exist_ok=True)
        (into / "benchmarks/figures.md").write_text(NO_FIGURES, "utf-8")
    for file in linked:
        (into / place_of(file)).parent.mkdir(parents=True, exist_ok=True)
        (into / place_of(file)).write_text(_listing(file), "utf-8")


def links(text: str) -> Iterator[tuple[str, str]]:
    """Targets and anchors (with `#`, or "") of a page's links, those of its blocks of code left out."""
    for found in LINK.finditer(FENCE.sub("", text)):
        yield found["target"], found["anchor"] or ""


def _on_the_site(file: Path, place: str, linked: set[Path]) -> str:
    """A page whose links lead to where things stand on the site. Adds files that aren't pages to `linked`."""

    def moved(found: re.Match[str]) -> str:
        target, anchor = found["target"], found["anchor"] or ""
        if not target or ":" in target:
            return found[0]
        wanted = (file.parent / target).resolve()
        if not wanted.exists():
            # zensical says so, with the line.
            return found[0]
        if not place_of(wanted).endswith(".html") or DOCS in wanted.parents:
            return os.path.relpath(place_of(wanted), Path(place).parent) + anchor
        linked.add(wanted)
        return os.path.relpath(place_of(wanted), Path(place).parent) + (anchor or _line_of(found, wanted))

    # Of a page's blocks of code nothing is a link.
    parts, at = [], 0
    text = file.read_text("utf-8")
    for block in FENCE.finditer(text):
        parts += [LINK.sub(moved, text[at : block.start()]), _titled(block)]
        at = block.end()
    return _deeper("".join(parts) + LINK.sub(moved, text[at:]))


def _titled(block: re.Match[str]) -> str:
    """A block of code whose file, named behind its language, is its title; other words there are for GitHub."""
    language, _, name = block["info"].strip().partition(" ")
    title = f' title="{name}"' if "." in name else ""
    return block[0].replace(block["info"], language + title, 1) if name else block[0]


def _deeper(text: str) -> str:
    """A page whose lists are as zensical wants them: what belongs to an item stands four columns in, not less."""
    lines, listed, fence, shift = [], False, "", 0
    for line in text.splitlines():
        words = line.lstrip(" ")
        indent = len(line) - len(words)
        if not fence:
            if words and not indent:
                listed = bool(LIST_ITEM.match(line))
            shift = 4 - indent if listed and indent in (2, 3) else 0
        if words.startswith("```"):
            fence = "" if fence else "```"
        lines.append(" " * shift + line if words else line)
    return "\n".join(lines) + "\n"


def _line_of(link: re.Match[str], file: Path) -> str:
    """The anchor of the test that a link names, as in [`test_it_works`](../tests/test_it.py); else nothing."""
    named = re.search(r"\[`(\w+)`\]\($", link.string[: link.start()])
    if named is None or file.is_dir():
        return ""
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if re.match(rf"\s*(async )?def {named[1]}\(", line):
            return f"#L{number}"
    return ""


def _listing(file: Path) -> str:
    """A page with the text of a file, or the names of what a folder has."""
    text = "\n".join(sorted(each.name for each in file.iterdir())) if file.is_dir() else file.read_text("utf-8")
    numbered = (
        f'<span id="L{number}"><a href="#L{number}">{number}</a>{html.escape(line)}</span>'
        for number, line in enumerate(text.splitlines(), 1)
    )
    name = file.relative_to(ROOT).as_posix()
    home = "../" * (name.count("/") + 1) + "index.html"
    return SOURCE.format(name=html.escape(name), home=home, lines="\n".join(numbered))
