"""The page of guarantees and the tests that name its rules say the same."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
PAGE = DOCS / "guarantees.md"

RULE = re.compile(r"^### ([POD]\d+)\. \S.*\n\n((?:(?!^#).*\n)*)", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)[^)]*\)")


def described() -> dict[str, str]:
    """The text of every rule on the page."""
    found = RULE.findall(PAGE.read_text())
    rules = dict(found)
    assert len(rules) == len(found), "a rule stands on the page twice"
    return rules


def marks(file: Path) -> Iterator[str]:
    """The rules that the tests of a file name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.rule":
            assert node.args, f"{file.name}:{node.lineno} names no rule"
            assert not node.keywords, f"{file.name}:{node.lineno} names rules by their places only"
            yield from map(ast.literal_eval, node.args)


def proven() -> dict[str, set[Path]]:
    """By rule the files with tests that name it."""
    files: dict[str, set[Path]] = defaultdict(set)
    for file in TESTS.rglob("*.py"):
        for rule in marks(file):
            files[rule].add(file)
    return files


def test_every_rule_has_tests_and_every_named_rule_is_one() -> None:
    """A rule that nothing tries to break is a wish; a test of an unknown rule proves nothing to a reader."""
    assert set(described()) == set(proven())


def test_each_rule_links_to_exactly_the_files_of_its_tests() -> None:
    """And names each by its path, so that the page can be read without following it."""
    files = proven()
    for rule, text in described().items():
        _, _, tests = text.partition("\nTests: ")
        linked = {(DOCS / target).resolve(): name for name, target in LINK.findall(tests)}
        assert set(linked) == files[rule], rule
        assert {file.relative_to(TESTS).as_posix() for file in linked} == set(linked.values()), rule


def test_rules_are_numbered_without_gaps() -> None:
    """Their ids are quoted elsewhere: a rule may be added behind the others, and none may move."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for rule in described():
        numbers[rule[0]].append(int(rule[1:]))
    assert numbers == {part: list(range(1, len(found) + 1)) for part, found in numbers.items()}


def test_readers_find_the_page() -> None:
    """From the list of pages and from the life of an order."""
    assert "(docs/guarantees.md)" in (TESTS.parent / "README.md").read_text()
    assert "(guarantees.md)" in (DOCS / "order-life.md").read_text()
