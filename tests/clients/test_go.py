"""The client in Go keeps the promise of the stream, works as printed, and serves others as it is published."""

import asyncio
import hashlib
import os
import re
import subprocess
import zipfile
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from reward_client_kit import Verdict
from service.bare import client_toml
from service.test_issuer import issue, publish

from .stage import (
    BUILD,
    CLIENTS,
    PRINTED_TARGET,
    SCENARIO_NAMES,
    RealService,
    code_block,
    kit,
    need,
    run,
    running,
)

pytestmark = pytest.mark.timeout(600)
GO = CLIENTS / "go"
OUT = BUILD / "go"
MODULE = (GO / "go.mod").read_text().split()[1]
GRPC = {"oldest": "go.mod", "newest": "newest.mod"}
"""The versions of grpc-go that are tried: the one that the module asks for, and the newest of the day."""
SERVICE_TESTS = set(re.findall(r"^func (TestService\w+)", (GO / "service_test.go").read_text(), re.MULTILINE))
CARD = re.compile(r"^CNRY\d+ CNRY(-\w+)+$", re.MULTILINE)
VERSIONS = re.compile(r"^(?:Snapshot|Updated)\(\w+ v(\d+) \w+\)$", re.MULTILINE)
# What is built without paths of the machine in it is built once, whichever folder it is for; nobody debugs it.
FLAGS = {"GOFLAGS": "-trimpath -modcacherw -ldflags=-w", "GOWORK": "off"}
ELSEWHERE = {"GOMODCACHE": str(OUT / "modcache"), "GOSUMDB": "off"}
"""For a project that takes the module as published: what it fetched stays out of the user's own cache."""


def go(*words: str | Path, folder: Path = GO, **environment: str) -> str:
    """What a command prints. Fails with what it complains of."""
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **FLAGS, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of what was built: the client of the kit in `oldest/` and `newest/`, and the tests of the module."""
    need("go", "gofmt")
    for name, mod in GRPC.items():
        (OUT / name).mkdir(parents=True, exist_ok=True)
        go("go", "build", f"-modfile={mod}", "-o", f"{OUT / name}/", "./examples/kitclient")
    go("go", "test", "-c", "-o", OUT / "module.test", ".")
    return OUT


@pytest.fixture(scope="module")
def verdicts(built: Path) -> dict[tuple[str, str], Verdict]:
    """What the client made of every scenario, with either version of grpc-go."""

    async def both() -> dict[tuple[str, str], Verdict]:
        played = await asyncio.gather(*(kit([str(built / grpc / "kitclient")]) for grpc in GRPC))
        return {
            (grpc, name): verdict for grpc, each in zip(GRPC, played, strict=True) for name, verdict in each.items()
        }

    return asyncio.run(both())


@pytest.mark.parametrize("grpc", GRPC)
@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_the_go_client_keeps_the_promise(verdicts: dict[tuple[str, str], Verdict], name: str, grpc: str) -> None:
    """Whatever the server does, every update is shown once and in order, and nobody is harried."""
    assert verdicts[grpc, name].complaints == (), verdicts[grpc, name].last_words


def test_the_code_is_formatted_and_vetted(built: Path) -> None:
    """As Go programmers expect it, the stubs included."""
    assert go("gofmt", "-l", ".") == ""
    go("go", "vet", "./...")


def test_the_stubs_are_those_of_the_contract(built: Path, tmp_path: Path) -> None:
    """Else: make clients, and commit the result."""
    go(GO / "generate", tmp_path)
    fresh, committed = tmp_path / "rewardservicev1", GO / "rewardservicev1"
    assert sorted(file.name for file in fresh.iterdir()) == sorted(file.name for file in committed.iterdir())
    for file in fresh.iterdir():
        assert file.read_bytes() == (committed / file.name).read_bytes(), file.name


def test_the_tests_of_the_module_pass(built: Path) -> None:
    """Those that need no service."""
    output = go(built / "module.test", "-test.v", "-test.skip=^TestService")
    assert "--- PASS: TestAnOrderIsSentAgainUnderTheSameID" in output


async def test_calls_and_errors_are_as_documented(built: Path, service: RealService, tmp_path: Path) -> None:
    """Orders, pages, cards, typed errors: against the real service."""
    await _service_tests(built, tmp_path, {"REWARD_TEST_TARGET": service.target})


@pytest.mark.parametrize("certified", [False, True], ids=["and a key", "without a key"])
async def test_the_same_holds_over_mutual_tls(built: Path, tmp_path: Path, *, certified: bool) -> None:
    """With an authority of one's own and a client certificate; that alone may say who calls."""
    async with RealService(tmp_path / "service", tls=True, client_from_certificate=certified) as service:
        assert service.tls is not None
        await _service_tests(
            built,
            tmp_path,
            {
                "REWARD_TEST_TARGET": service.target,
                "REWARD_TEST_CA": str(service.tls.ca),
                "REWARD_TEST_CERT": str(service.tls.certificate),
                "REWARD_TEST_KEY": str(service.tls.key),
                "REWARD_TEST_CERTIFIED": "1" if certified else "",
                "REWARDSERVICE_KEY": "",
            },
        )


async def test_tokens_may_expire(built: Path, tmp_path: Path) -> None:
    """A watch whose token has expired goes on with the next; a fixed one is told."""
    issuer = ec.generate_private_key(ec.SECP256R1())
    keys = tmp_path / "jwks.json"
    publish(keys, issuer)
    expired = jwt.encode(
        {"iss": "https://issuer", "aud": "rewards", "sub": "shop", "exp": 1_700_000_000},
        issuer,
        algorithm="ES256",
        headers={"kid": "1"},
    )
    clients = f'[jwt]\nissuer = "https://issuer"\naudience = "rewards"\njwks_file = "{keys}"\n' + client_toml("shop")
    async with RealService(tmp_path / "service", clients=clients) as service:
        tokens = {"REWARD_TEST_TARGET": service.target, "REWARD_TEST_TOKENS": f"{expired} {issue(issuer, 'shop')}"}
        program = built / "module.test", "-test.v", "-test.run=^TestTokens"
        done = await run(*program, errors=tmp_path / "errors", folder=GO, environment=tokens)
    assert done.code == 0, done.output + done.errors
    assert "--- PASS: TestTokensMayExpire/fresh" in done.output


async def _service_tests(built: Path, folder: Path, environment: dict[str, str]) -> None:
    program = built / "module.test", "-test.v", "-test.run=^TestService"
    done = await run(*program, errors=folder / "errors", folder=GO, environment=environment)
    assert done.code == 0, done.output + done.errors
    assert set(re.findall(r"^--- PASS: (\w+)", done.output, re.MULTILINE)) == SERVICE_TESTS


@pytest.fixture(scope="module")
def project(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project that has fetched the module from a proxy, as the README tells its readers to."""
    folder = tmp_path_factory.mktemp("go")
    version = _publish(folder / "proxy")
    # Beside the published one there is nothing new to fetch: the build has it all.
    cache, proxies = go("go", "env", "GOMODCACHE").strip(), go("go", "env", "GOPROXY").strip()
    project = folder / "project"
    project.mkdir()
    go("go", "mod", "init", "quickstart.example/quickstart", folder=project)
    sources = f"file://{folder / 'proxy'},file://{cache}/cache/download,{proxies}"
    go("go", "get", f"{MODULE}@{version}", folder=project, **ELSEWHERE, GOPROXY=sources)
    return project


def _publish(proxy: Path) -> str:
    """Puts the module into a folder that is laid out as a module proxy, and returns its version."""
    place = proxy / re.sub("[A-Z]", lambda letter: f"!{letter[0].lower()}", MODULE) / "@v"
    place.mkdir(parents=True)
    names = go("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    # Go takes it that a version never changes, so every content is one of its own.
    content = hashlib.sha256(b"".join(name.encode() + b"\0" + (GO / name).read_bytes() for name in names))
    version = f"v0.1.0-t{content.hexdigest()[:12]}"
    with zipfile.ZipFile(place / f"{version}.zip", "w") as archive:
        for name in names:
            archive.write(GO / name, f"{MODULE}@{version}/{name}")
    (place / f"{version}.mod").write_bytes((GO / "go.mod").read_bytes())
    (place / f"{version}.info").write_text(f'{{"Version": "{version}"}}')
    (place / "list").write_text(f"{version}\n")
    return version


def _quickstart(project: Path, target: str) -> Path:
    """The program of the README, but for where the server is, built in the empty project."""
    program = code_block(GO / "README.md", "go")
    assert PRINTED_TARGET in program
    (project / "main.go").write_text(program.replace(PRINTED_TARGET, target))
    go("go", "build", "-o", "quickstart", ".", folder=project, **ELSEWHERE, GOPROXY="off")
    return project / "quickstart"


def test_the_quickstart_is_short_and_the_one_of_the_readme() -> None:
    """The program in the module and the printed one are the same."""
    program = code_block(GO / "README.md", "go")
    assert program == (GO / "examples/quickstart/main.go").read_text()
    assert len(program.splitlines()) <= 30


async def test_the_quickstart_works_as_printed(project: Path, service: RealService, tmp_path: Path) -> None:
    """From an empty project; a second run prints the same card, and it was bought once."""
    program = _quickstart(project, service.target)
    cards = []
    for _ in range(2):
        done = await run(program, errors=tmp_path / "errors")
        assert (done.code, done.errors) == (0, "")
        cards += [match[0] for match in CARD.finditer(done.output)]
    assert len(cards) == 2
    assert cards[0] == cards[1] == _bought(service)


async def test_the_quickstart_survives_a_killed_server(project: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of its stream and a new start: the card arrives, and nothing is lost or shown twice."""
    async with RealService(tmp_path / "service", step_seconds=1.5) as service:
        program = _quickstart(project, service.target)
        async with running(program, errors=tmp_path / "errors") as quickstart:
            seen = ""
            while "PROCESSING" not in seen:
                line = await quickstart.line()
                assert line, (tmp_path / "errors").read_text()
                seen += f"{line}\n"
            await service.kill()
            await service.start_again()
            done = await asyncio.wait_for(quickstart.finished(), 60)
        assert (done.code, done.errors) == (0, "")
        shown = seen + done.output
        versions = [int(number) for number in VERSIONS.findall(shown)]
        assert versions == sorted(set(versions))
        assert [match[0] for match in CARD.finditer(shown)] == [_bought(service)]


def _bought(service: RealService) -> str:
    """The one card that the supplier sold, as the quickstart prints it."""
    (order,) = service.books("kasushou")
    assert order["requests"] == 1
    (card,) = order["delivered"]
    return f"{card['card_no']} {card['card_password']}"


def test_the_fragments_of_the_readme_compile() -> None:
    """They stand in the examples of the module, which are compiled with its tests; but for what isn't shown."""
    examples = {line.strip() for line in (GO / "example_test.go").read_text().splitlines()}
    blocks = re.findall(r"^```golang\n(.*?)^```", (GO / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    for line in "".join(blocks).splitlines():
        assert line.strip() in examples, line
