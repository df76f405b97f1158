"""docs/start.md is followed as it is printed, from an empty folder to a card; its programs are the clients' own."""

import re
import shutil
from pathlib import Path

import pytest

from .stage import PRINTED_TARGET, ROOT, RealService, need, run

pytestmark = pytest.mark.timeout(600)
PAGE = ROOT / "docs" / "start.md"
CARD = re.compile(r"^(card )?CNRY\d+ (secret )?CNRY(-\w+)+$", re.MULTILINE)


def steps(language: str) -> list[tuple[str, str]]:
    """What a language's section has its reader do, in its order: ("save as FILE", text) and ("type", commands)."""
    section = re.search(rf"^### {language}\n(.*?)(?=^##)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert section is not None
    found = re.findall(r"(?:this as `([\w.]+)`[^`]*)?^```(\w+)\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return [(f"save as {file}" if file else "type", text) for file, kind, text in found if file or kind == "sh"]


def checkout(folder: Path) -> Path:
    """What a reader has who has just cloned the repository and run `make run`: readers build the clients in there."""
    folder.mkdir()
    for file in ROOT.iterdir():
        if file.name not in {"clients", "protos", ".build", ".git"}:
            (folder / file.name).symlink_to(file)
    (folder / ".build").mkdir()
    (folder / ".build/googleapis").symlink_to(ROOT / ".build/googleapis")
    built = shutil.ignore_patterns("node_modules", "dist", "gen", "target", "*.tgz")
    for name in ("protos", "clients/java", "clients/typescript"):
        shutil.copytree(ROOT / name, folder / name, ignore=built)
    for name in ("clients/go", "clients/python"):
        (folder / name).symlink_to(ROOT / name)
    return folder


async def follow(language: str, service: RealService, tmp_path: Path, **variables: str) -> None:
    """Types nothing but what stands on the page, in an empty folder; a card must be printed in the end."""
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {"REWARDS": str(checkout(tmp_path / "checkout")), **variables}
    printed = ""
    for what, text in steps(language):
        if what != "type":
            assert PRINTED_TARGET in text or what == "save as pom.xml"
            (folder / what.removeprefix("save as ")).write_text(text.replace(PRINTED_TARGET, service.target))
            continue
        script = ("bash", "-e", "-c", text)
        done = await run(*script, errors=tmp_path / "errors", folder=folder, environment=environment, within=300)
        assert done.code == 0, done.output + done.errors
        printed = done.output
    assert CARD.search(printed), printed


@pytest.mark.parametrize("language", ["Python", "Go", "TypeScript"])
async def test_an_empty_folder_becomes_a_card_on_a_stream(language: str, service: RealService, tmp_path: Path) -> None:
    """With nothing typed but what stands on the page. Java's is in test_java.py, beside what Maven has fetched."""
    need("python3", "go", "node", "npm", "make")
    await follow(language, service, tmp_path)
