"""One version for everything that is released together."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STATED = {
    "clients/go/README.md": r"^go get \S+@v(\S+)$",
    "clients/go/doc.go": r'^const Version = "(.+)"$',
    "clients/java/README.md": r"^  <version>(.+)</version>$",
    "clients/java/pom.xml": r"^  <version>(.+)</version>$",
    "clients/typescript/README.md": r"rewardservice-client-(.+)\.tgz$",
    "clients/typescript/package-lock.json": r'\A{\n.*\n  "version": "(.+)",$',
    "clients/typescript/package.json": r'^  "version": "(.+)",$',
    "clients/typescript/src/version.ts": r'^export const VERSION = "(.+)";$',
}
"""Where a client says which version it is: its package, what it tells the server, and how it is installed."""


def version_in(file: str, pattern: str) -> str:
    """The one version that a file states."""
    (version,) = re.findall(pattern, (ROOT / file).read_text("utf-8"), re.MULTILINE)
    assert isinstance(version, str)
    return version


@pytest.mark.parametrize("file", STATED)
def test_every_client_has_the_version_of_the_service(file: str) -> None:
    """They are released together: a release that forgets one would publish it under the former number."""
    assert version_in(file, STATED[file]) == version_in("pyproject.toml", r'^version = "(.+)"$')
