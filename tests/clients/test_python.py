"""The client in Python works as printed, from a wheel in an empty environment, and brings nothing of the server along.

(The kit plays its scenarios to it in tests/kit.)
"""

import asyncio
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from .stage import CLIENTS, PRINTED_TARGET, ROOT, RealService, code_block, run, running

pytestmark = pytest.mark.timeout(300)
PYTHON = CLIENTS / "python"
CARD = re.compile(r"^CNRY\d+ CNRY(-\w+)+$", re.MULTILINE)
VERSIONS = re.compile(r"^version (\d+): ", re.MULTILINE)
NEEDED = {"googleapis-common-protos", "grpcio", "grpcio-status", "protobuf", "reward-service", "typing-extensions"}


def called(*words: str | Path) -> str:
    """What a command prints. Fails with what it complains of."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment that has the wheel, and what it asks for in the locked versions."""
    folder = tmp_path_factory.mktemp("python")
    here = Path(sys.executable)
    pip = (here, "-m", "pip", "--disable-pip-version-check", "--quiet")
    called(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ".")
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    lock = (ROOT / "requirements.lock").read_text()
    pins = folder / "constraints.txt"
    pins.write_text("".join(f"{line}\n" for line in re.findall(r"^[\w.-]+==[^\s\\]+", lock, re.MULTILINE)))
    called(*pip, "--python", python, "install", "--constraint", pins, wheel)
    return python


def test_nothing_of_the_server_comes_along(python: Path) -> None:
    """The wheel's own dependencies are gRPC and protobuf."""
    listed = called(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "freeze")
    names = {re.split(r"[ =@]", line)[0].lower().replace("_", "-") for line in listed.splitlines()}
    assert names == NEEDED


def test_the_quickstart_is_short_and_the_one_of_the_readme() -> None:
    """The program in the package and the printed one are the same."""
    program = code_block(PYTHON / "README.md", "python")
    assert program == (PYTHON / "examples/quickstart.py").read_text()
    assert len(program.splitlines()) <= 30


def quickstart(folder: Path, target: str) -> Path:
    """The program of the README, but for where the server is."""
    program = code_block(PYTHON / "README.md", "python")
    assert PRINTED_TARGET in program
    file = folder / "quickstart.py"
    file.write_text(program.replace(PRINTED_TARGET, target))
    return file


def bought(service: RealService) -> str:
    """The one card that the supplier sold, as the quickstart prints it."""
    (order,) = service.books("kasushou")
    assert order["requests"] == 1
    (card,) = order["delivered"]
    return f"{card['card_no']} {card['card_password']}"


async def test_the_quickstart_works_as_printed(python: Path, service: RealService, tmp_path: Path) -> None:
    """From an empty environment; a second run prints the same card, and it was bought once."""
    program = quickstart(tmp_path, service.target)
    cards = []
    for _ in range(2):
        done = await run(python, program, errors=tmp_path / "errors")
        assert (done.code, done.errors) == (0, "")
        cards += [match[0] for match in CARD.finditer(done.output)]
    assert len(cards) == 2
    assert cards[0] == cards[1] == bought(service)


async def test_the_quickstart_survives_a_killed_server(python: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of its stream and a new start: the card arrives, and nothing is lost or shown twice."""
    async with RealService(tmp_path / "service", step_seconds=1.5) as service:
        program = quickstart(tmp_path, service.target)
        async with running(python, program, errors=tmp_path / "errors") as started:
            seen = ""
            while "PROCESSING" not in seen:
                line = await started.line()
                assert line, (tmp_path / "errors").read_text()
                seen += f"{line}\n"
            await service.kill()
            await service.start_again()
            done = await asyncio.wait_for(started.finished(), 60)
        assert done.code == 0, done.errors
        shown = seen + done.output
        versions = [int(number) for number in VERSIONS.findall(shown)]
        assert versions == sorted(set(versions))
        assert [match[0] for match in CARD.finditer(shown)] == [bought(service)]
