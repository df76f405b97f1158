"""docs/start.md is followed as it is printed, from an empty folder to a card; its programs are the clients' own."""

import re
from pathlib import Path

import pytest

from .stage import PRINTED_TARGET, ROOT, RealService, need, run

pytestmark = pytest.mark.timeout(600)
PAGE = ROOT / "docs" / "start.md"
CARD = re.compile(r"^CNRY\d+ CNRY(-\w+)+$", re.MULTILINE)


def steps(language: str) -> list[tuple[str, str]]:
    """What a language's section has its reader do, in its order: ("save as FILE", text) and ("type", commands)."""
    section = re.search(rf"^### {language}\n(.*?)(?=^##)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert section is not None
    found = re.findall(r"(?:Save this as `([\w.]+)`[^`]*)?^```(\w+)\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return [(f"save as {file}" if file else "type", text) for file, kind, text in found if file or kind == "sh"]


# What Java's and TypeScript's readers type does more than a test may to the checkout and to the reader's own local
# repository; the same commands are tried in places of their own by test_java.py and test_typescript.py.
@pytest.mark.parametrize("language", ["Python", "Go"])
async def test_an_empty_folder_becomes_a_card_on_a_stream(language: str, service: RealService, tmp_path: Path) -> None:
    """With nothing typed but what stands on the page."""
    need("python3", "go")
    folder = tmp_path / "empty"
    folder.mkdir()
    printed = ""
    for what, text in steps(language):
        if what != "type":
            assert PRINTED_TARGET in text
            (folder / what.removeprefix("save as ")).write_text(text.replace(PRINTED_TARGET, service.target))
            continue
        script = ("bash", "-e", "-c", text)
        done = await run(
            *script, errors=tmp_path / "errors", folder=folder, environment={"REWARDS": str(ROOT)}, within=300
        )
        assert done.code == 0, done.output + done.errors
        printed = done.output
    assert CARD.search(printed), printed
