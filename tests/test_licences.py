"""What we ship, and what we build it with, may be used commercially."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import Marker

ROOT = Path(__file__).parents[1]

PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0",
    "Python-2.0", "Unlicense", "Zlib",
}  # fmt: skip
"""Under any of these it may be sold, with or without changes."""
FORBIDDEN = re.compile(
    r"non.?commercial|\bNC\b|proprietary|other/|SSPL|BUSL|business source|commons clause|unknown", re.IGNORECASE
)


def notices_program() -> ModuleType:
    """deploy/notices.py, which is no package."""
    spec = importlib.util.spec_from_file_location("notices", ROOT / "deploy" / "notices.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTICES = notices_program()


def for_this_platform(lock: Path) -> list[str]:
    """The packages of a lock file whose condition, if they have one, holds here."""
    pinned = re.findall(r"^([a-z0-9][a-z0-9._-]*)==[^ ;]+(?: ; ([^\\\n]+))?", lock.read_text("utf-8"), re.MULTILINE)
    return [name for name, condition in pinned if not condition or Marker(condition.strip()).evaluate()]


@pytest.mark.parametrize("name", for_this_platform(NOTICES.SHIPPED))
def test_what_is_shipped_is_permissive(name: str) -> None:
    """A licence that asks more of whoever sells or changes it needs a decision, not an update."""
    said = NOTICES.licence(name)
    assert said is not None, "isn't installed"
    assert set(re.split(r" (?:AND|OR) ", said.strip("()"))) <= PERMISSIVE, said


@pytest.mark.parametrize("name", for_this_platform(NOTICES.EVERYTHING))
def test_no_tool_forbids_commercial_use(name: str) -> None:
    """Neither do the packages that only tests and checks need; one that doesn't say counts as one that does."""
    said = NOTICES.licence(name)
    assert said is not None, "isn't installed"
    assert not FORBIDDEN.search(said), said


def test_the_notices_are_of_these_packages() -> None:
    """`make notices` after `make lock`."""
    assert (ROOT / "THIRD-PARTY-NOTICES.md").read_text("utf-8") == NOTICES.notices()


@pytest.mark.parametrize("client", ["go", "java", "typescript"])
def test_each_client_brings_the_licence_along(client: str) -> None:
    """Published alone, it has to stand in its package."""
    assert (ROOT / "clients" / client / "LICENSE").read_text("utf-8") == (ROOT / "LICENSE").read_text("utf-8")
