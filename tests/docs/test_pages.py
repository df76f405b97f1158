"""The pages hang together: all can be reached, no link leads nowhere, and nothing would be fetched from elsewhere."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.contract import reference
from docs.site import complaints
from docs.tree import DOCS, FENCE, LAID_OUT, ROOT, lay_out, links, pages

CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
TEST = re.compile(r"\[`(test_\w+)`\]\(\.\./tests/([\w/]+\.py)\)")


def listed(entries: list[object]) -> Iterator[str]:
    """The pages of a navigation, from top to bottom."""
    for entry in entries:
        if isinstance(entry, dict):
            for inner in entry.values():
                yield from listed(inner if isinstance(inner, list) else [inner])
        else:
            yield str(entry)


def anchors(page: str) -> set[str]:
    """The places of a page that may be linked to, as GitHub names them."""
    text = FENCE.sub("", page)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    named = re.findall(r'<a id="([^"]+)"', text)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain} | set(named)


def test_every_page_stands_in_the_navigation_once() -> None:
    """In zensical.toml; the figures of `make bench` have a place also while there are none."""
    shown = list(listed(CONFIG["nav"]))
    assert sorted(shown) == sorted({*pages().values(), "benchmarks/figures.md"})
    assert [next(iter(part)) for part in CONFIG["nav"]] == [
        "Start", "Concepts", "How-to", "Reference", "Runbook", "Guarantees", "Decisions",
    ]  # fmt: skip


def test_every_link_leads_somewhere() -> None:
    """To a file of the repository and, on a page, to a heading of it."""
    broken = []
    texts = {file: file.read_text("utf-8") for file in (*pages(), ROOT / "README.md")}
    for file, text in texts.items():
        for target, anchor in links(text):
            wanted = (file.parent / target).resolve() if target else file
            if ":" in target:
                continue
            if not wanted.exists():
                broken.append(f"{file.relative_to(ROOT)}: {target}")
            elif wanted in texts and anchor and anchor[1:] not in anchors(texts[wanted]):
                broken.append(f"{file.relative_to(ROOT)}: {target}{anchor}")
    assert broken == []


def test_nothing_is_fetched_from_elsewhere() -> None:
    """No picture, script, style or font: the site is read where there is no network."""
    assert CONFIG["theme"]["font"] is False
    for file in pages():
        text = FENCE.sub("", file.read_text("utf-8"))
        assert not re.search(r"!\[[^\]]*\]\([a-z]+:|<(?:script|link|iframe|img)\b", text), file
    for file in (*(DOCS / "pictures").iterdir(), DOCS / "site.css"):
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|<script|<image", text), file


@pytest.mark.parametrize("picture", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda file: file.stem)
def test_pictures_are_told_in_words_too(picture: Path) -> None:
    """To whoever can't see them: in the picture, and where it stands."""
    assert "<title" in (text := picture.read_text("utf-8"))
    assert "<desc" in text
    shown = [
        page for page in pages() if re.search(rf"!\[.{{40,}}\]\(pictures/{picture.name}\)", page.read_text("utf-8"))
    ]
    assert len(shown) == 1


def test_the_reference_of_the_contract_is_the_present_one() -> None:
    """A page of a thousand lines is no diff to read: what mends it is said instead."""
    is_present = (DOCS / "reference/api.md").read_text("utf-8") == reference()
    assert is_present, "run: PYTHONPATH=tests .venv/bin/python -m docs.contract > docs/reference/api.md"


def test_every_promise_names_tests_that_are_there() -> None:
    """Each is one sentence, with the functions that try to break it and what came of that."""
    page = (DOCS / "guarantees.md").read_text("utf-8").partition("## Purchases\n")[0]
    promises = re.split(r"^\d+\. (?=\*\*)", page, flags=re.MULTILINE)[1:]
    assert len(promises) >= 12
    for promise in promises:
        sentence = promise.partition("**")[2].partition("**")[0]
        assert re.fullmatch(r"[^.]+\.", sentence), sentence
        assert "Last: " in promise or re.search("[Ee]very `make test", promise), sentence
        named = TEST.findall(promise)
        assert named, sentence
        for function, file in named:
            program = (ROOT / "tests" / file).read_text("utf-8")
            assert re.search(rf"^(?:async )?def {function}\(", program, re.MULTILINE), (function, file)
    for target in re.findall(r"`make ([\w-]+)`", page):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), target


def test_no_lock_file_names_a_registry() -> None:
    """Whoever installs has one of their own."""
    for lock in ROOT.glob("requirements*.lock"):
        assert "://" not in lock.read_text("utf-8"), lock.name


def test_the_site_has_what_its_pages_link_to(tmp_path: Path) -> None:
    """Tests and other files as pages with their text, and links that lead to the function that was named."""
    lay_out(tmp_path)
    page = (tmp_path / "guarantees.md").read_text("utf-8")
    function, file = TEST.findall((DOCS / "guarantees.md").read_text("utf-8"))[0]
    [(where, line)] = set(re.findall(rf"\[`{function}`\]\((source/tests/{file}\.html)#(L\d+)\)", page))
    assert re.search(rf'id="{line}">.*def {function}\(', (tmp_path / where).read_text("utf-8"))
    for laid_out in (each for each in tmp_path.rglob("*.md") if each.name != "figures.md"):
        for target, _ in links(laid_out.read_text("utf-8")):
            assert ":" in target or not target or (laid_out.parent / target).exists(), (laid_out, target)
    assert ROOT / CONFIG["docs_dir"] == LAID_OUT


def test_a_site_with_something_wrong_is_refused(tmp_path: Path) -> None:
    """Dead links, places that aren't there, and whatever comes from another host."""
    (tmp_path / "index.html").write_text(
        '<h1 id="here">x</h1><a href="#here">fine</a><a href="#there">no</a><a href="gone.html">no</a>'
        '<a href="https://example.com">fine</a><script src="https://cdn.example.com/x.js"></script>'
    )
    (tmp_path / "x.css").write_text("@import url(http://example.com/x.css);")
    assert [complaint.partition(" ")[0] for complaint in complaints(tmp_path)] == ["index.html"] * 3 + ["x.css"]
    assert list(complaints(tmp_path / "nothing")) != []
