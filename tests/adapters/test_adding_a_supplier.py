"""The page about adding a supplier works: its programs are put where they belong, and everything is run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-supplier.md"
COPIED = ("adapters/reward_adapters", "adapters/reward_sandbox", "tests/adapters", "tests/service", "docs/suppliers")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the page adds to, with the page's programs where it says they belong."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/ports.py"):
        shutil.copy(ROOT / name, folder / name)
    for name, code in re.findall(r"```python (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (folder / name).write_text(code)
    return folder


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in the copy; the server is the real one."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=checkout,
        env={
            **os.environ,
            "PYTHONPATH": f"{checkout / 'adapters'}{os.pathsep}{checkout / 'tests'}",
            "MYPYPATH": str(checkout / "adapters"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_the_adapter_keeps_every_law(checkout: Path) -> None:
    """With the specimen of the page."""
    done = run(checkout, "pytest", "-q", "tests/adapters/test_laws.py", "-k", "keeps_the_law and lantern")
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^[12]\d passed", done.stdout, re.MULTILINE), done.stdout[-300:]


def test_its_scenarios_end_as_declared(checkout: Path) -> None:
    """An order each, from the contract to the card, against the sandbox file of the page."""
    done = run(checkout, "pytest", "-q", "tests/service/test_scenarios.py", "-k", "lantern")
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_suite_says_what_is_still_missing(checkout: Path) -> None:
    """Its page and its own tests, which this page only names."""
    done = run(checkout, "pytest", "-q", "tests/adapters/test_laws.py", "-k", "all_that_belongs and lantern")
    assert done.returncode == 1
    assert "describe the supplier in docs/suppliers/lantern.md" in done.stdout


def test_its_programs_have_true_types(checkout: Path) -> None:
    """mypy --strict has nothing to say."""
    programs = ["adapters/reward_adapters/lantern.py", "adapters/reward_sandbox/lantern.py"]
    done = run(checkout, "mypy", "--strict", "--config-file=", "--explicit-package-bases", *programs)
    assert done.returncode == 0, done.stdout
