"""Every block of code on every page is run or checked, each kind in its own way; no kind is left unchecked."""

import ast
import functools
import importlib
import json
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from docs.commands import complaints, printed
from docs.tree import DOCS, FENCE, ROOT, pages
from postgres_server import Server, execute
from reward_server.config import ConfigError, known_keys, load_settings
from reward_server.sealing import create_master_key_file
from rewardservice.v1.error_reason_pb2 import ErrorReason

CLIENTS = ROOT / "clients"
INLINE = re.compile(r"`((?:rewardctl|reward-server|reward-sandbox|reward-client-kit|make) [^`]+)`")
RUN_BY_OTHERS = {
    "README.md": "service/test_readme.py",
    "docs/by-hand.md": "watching/test_by_hand.py",
    "docs/adding-a-supplier.md": "adapters/test_adding_a_supplier.py",
    "docs/how-to/rotate-keys.md": "docs/test_how_to.py",
    "docs/how-to/resolve-an-unknown-outcome.md": "docs/test_how_to.py",
    "docs/how-to/move-to-postgresql.md": "docs/test_how_to.py",
    "docs/start.md": "clients/test_start.py",
    "clients/python/README.md": "clients/test_python.py",
    "clients/go/README.md": "clients/test_go.py",
    "clients/java/README.md": "clients/test_java.py",
    "clients/typescript/README.md": "clients/test_typescript.py",
}
"""Pages whose programs or commands are really run, and the tests that do it."""


@dataclass(frozen=True, slots=True)
class Block:
    """One of a page, without its indentation."""

    page: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text[:60]!r}"

    @property
    def kind(self) -> str:
        """The language behind the ticks."""
        return self.info.partition(" ")[0]


def blocks() -> Iterator[Block]:
    """Of all pages of the site, and of the README."""
    for file in (*pages(), ROOT / "README.md"):
        text = file.read_text("utf-8")
        assert text.count("```") == 2 * len(FENCE.findall(text)), f"{file}: a block without an end, or inside a line"
        for found in FENCE.finditer(text):
            yield Block(file.relative_to(ROOT).as_posix(), found["info"].strip(), textwrap.dedent(found["body"]))


BLOCKS = list(blocks())


def of(*kinds: str) -> list[Block]:
    """The blocks of some kinds."""
    return [block for block in BLOCKS if block.kind in kinds]


@functools.cache
def exported(sources: str, pattern: str) -> set[str]:
    """The names that a client's sources give to others."""
    return {name for file in CLIENTS.glob(sources) for name in re.findall(pattern, file.read_text("utf-8"))}


# --- One check for each kind


def shell(block: Block) -> None:
    """The commands exist, and so do their options, the files they name, the RPCs and the fields of requests."""
    text = printed(block.text) if block.kind == "console" else block.text
    assert text.strip(), "no command: begin it with `$ `"
    assert list(complaints(text)) == []


def toml(block: Block, folder: Path) -> None:
    """Every key is one of the configuration's; and the server takes the values, as far as a fragment goes."""
    found = tomllib.loads(block.text)
    assert set(_keys(found)) <= set(known_keys()) | {"suppliers.NAME.base_url"} | _own_keys(found)
    if "lantern" in block.text:
        return  # an adapter that only the page's reader has
    (folder / "reward.toml").write_text(block.text, "utf-8")
    create_master_key_file(folder / "master.key")
    environ = {"REWARD_SECRETS__MASTER_KEY_FILE": str(folder / "master.key")}
    if "store" not in found:
        # Some keys are of use with PostgreSQL only.
        environ["REWARD_STORE__URL"] = "postgresql://reward@db.example.net/reward"
    try:
        load_settings(folder / "reward.toml", environ)
    except ConfigError as error:
        pytest.fail(error.report())


def _keys(table: Mapping[str, object], above: str = "") -> Iterator[str]:
    for name, value in table.items():
        key = f"{above}{'NAME' if above == 'suppliers.' else name}"
        inner = value if isinstance(value, list) else [value]
        tables = [each for each in inner if isinstance(each, dict)]
        if tables and key != "clients.keys":
            for each in tables:
                yield from _keys(each, f"{key}.")
        else:
            yield key


def _own_keys(found: Mapping[str, dict[str, dict[str, object]]]) -> set[str]:
    """The keys that an adapter of the reader's own may have."""
    own = [account for account in found.get("suppliers", {}).values() if account.get("adapter") == "lantern"]
    return {f"suppliers.NAME.{key}" for account in own for key in account}


def json_lines(block: Block) -> None:
    """One object, or one a line."""
    try:
        json.loads(block.text)
    except ValueError:
        assert [json.loads(line) for line in block.text.splitlines()]


def python(block: Block) -> None:
    """It compiles, and what it imports from our packages is there."""
    for node in ast.walk(ast.parse(block.text)):
        # The lantern is an adapter that the page itself makes.
        if isinstance(node, ast.ImportFrom) and re.match(r"reward(?!.*lantern)", node.module or ""):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def golang(block: Block) -> None:
    """What it uses of our package is there."""
    names = exported("go/**/*.go", r"(?m)^(?:func(?: \([^)]*\))?|type|var|const|\t)\s*([A-Z]\w+)")
    used = set(re.findall(r"\b(?:rewardservice|client)\.([A-Z]\w+)", block.text))
    assert used
    assert used <= names


def typescript(block: Block) -> None:
    """What it calls of our client, and the kinds of events it asks for, are there."""
    names = exported("typescript/src/*.ts", r"\b(\w+)[(?:]")
    used = set(re.findall(r"\bclient\.(\w+)\(", block.text)) | set(re.findall(r"\berror\.(\w+)", block.text))
    assert used <= names
    kinds = set(re.findall(r'event\.type === "(\w+)"', block.text))
    assert kinds <= exported("typescript/src/*.ts", r'type: "(\w+)"')
    assert used | kinds or "new RewardClient" in block.text


def java(block: Block) -> None:
    """What it calls of our client is there."""
    used = set(re.findall(r"\b(?:rewards|error|RewardClient|Tls|Orders)\.(\w+)\(", block.text))
    assert used
    assert used <= exported("java/src/main/**/*.java", r"\b(\w+)\(")


def xml(block: Block) -> None:
    """It is well-formed, and asks for the version that is built."""
    pom = "{http://maven.apache.org/POM/4.0.0}"
    built = ElementTree.parse(CLIENTS / "java/pom.xml").findtext(f"{pom}version")  # noqa: S314 - our own
    assert f"<version>{built}</version>" in block.text
    ElementTree.fromstring(block.text)  # noqa: S314 - our own


def yaml_text(block: Block) -> None:
    """It is read without complaint, and holds something."""
    assert yaml.safe_load(block.text)


def nginx(block: Block) -> None:
    """Its braces close, and it passes on what the server serves, where it does by default."""
    assert block.text.count("{") == block.text.count("}")
    assert "location /callbacks/ { proxy_pass http://127.0.0.1:8080;" in block.text


def text(block: Block) -> None:
    """Output, pictures and pseudo code: the reasons, codes and variables in it exist."""
    words = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", block.text))
    told = "".join(file.read_text("utf-8") for file in (*(ROOT / "protos").rglob("*.proto"), DOCS / "client-kit.md"))
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118 - no dictionary
    codes = {"OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "NOT_FOUND"}
    assert {word for word in words - reasons - codes if word not in told} == set()


CHECKS: Mapping[str, Callable[[Block], None]] = {
    "console": shell,
    "sh": shell,
    "json": json_lines,
    "python": python,
    "py": python,
    "go": golang,
    "golang": golang,
    "js": typescript,
    "ts": typescript,
    "java": java,
    "xml": xml,
    "nginx": nginx,
    "yaml": yaml_text,
    "text": text,
}
ELSEWHERE_IN_THIS_FILE = {"toml", "sql"}


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """A new kind of block needs a check of its own."""
    assert {block.kind for block in BLOCKS} <= {*CHECKS, *ELSEWHERE_IN_THIS_FILE}
    assert len(BLOCKS) > 100


@pytest.mark.parametrize("kind", CHECKS)
def test_blocks_stand_their_check(kind: str) -> None:
    """All of one kind."""
    for block in of(kind):
        try:
            CHECKS[kind](block)
        except (AssertionError, SyntaxError, ValueError, ElementTree.ParseError) as error:
            raise AssertionError(f"{block}: {error}") from error


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_configurations_are_taken(block: Block, tmp_path: Path) -> None:
    """By the server's own loader."""
    toml(block, tmp_path)


@pytest.mark.parametrize("page", sorted({block.page for block in of("sql")}))
def test_statements_are_taken_by_the_database(page: str, store_url: str, postgres: Server) -> None:
    """On a store with today's schema. (The block that partitions an empty database is run by tests/store.)"""
    with postgres.database() as other:
        try:
            for block in of("sql"):
                if block.page == page and "PARTITION BY" not in block.text:
                    for statement in filter(str.strip, block.text.split(";\n")):
                        execute(
                            other if statement.startswith("CREATE DATABASE") else store_url,
                            statement.replace("DATABASE reward OWNER", "DATABASE reward_of_the_page OWNER"),
                        )
        finally:
            execute(other, "DROP DATABASE IF EXISTS reward_of_the_page")
            execute(other, "DROP ROLE IF EXISTS reward")


@pytest.mark.parametrize(
    ("language", "readme"), [("python", "python"), ("go", "go"), ("js", "typescript"), ("java", "java")]
)
def test_the_start_page_prints_the_clients_own_quickstarts(language: str, readme: str) -> None:
    """Which the clients' tests compile and run as they are printed, against the real service."""
    [ours] = [block.text for block in of(language) if block.page == "docs/start.md"]
    [theirs] = [
        block.text for block in of(language) if block.page == f"clients/{readme}/README.md" and block.info == language
    ]
    assert ours == theirs


def test_the_pages_that_are_run_have_tests_that_run_them() -> None:
    """And those tests name them."""
    for page, test in RUN_BY_OTHERS.items():
        program = (ROOT / "tests" / test).read_text("utf-8")
        names = {page.rpartition("/")[2], "README.md"} if page.startswith("clients") else {page.rpartition("/")[2]}
        assert any(name in program for name in names), (page, test)


def test_commands_inside_of_sentences_are_there_too() -> None:
    """Their options as well; what a sentence leaves out is nothing wrong."""
    wrong, count = [], 0
    for file in (*pages(), ROOT / "README.md"):
        if file.name == "CHANGELOG.md":
            continue  # it tells of what was
        for command in INLINE.findall(FENCE.sub("", file.read_text("utf-8"))):
            count += 1
            said = [one for one in complaints(" ".join(command.split())) if "requires an argument" not in one]
            wrong += [f"{file.name}: {one}" for one in said]
    assert wrong == []
    assert count > 100


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("rewardctl order creat x", "Unknown command"),
        ("sudo -u reward reward-server serve --confg x", "Unknown option"),
        ("make demmo", "demmo"),
        ("docker run --rm reward-service:0.1.0 new-keys", "Unknown command"),
        ("grpcurl -d '{\"quantitty\": 1}' 127.0.0.1:1 rewardservice.v1.RewardService/CreateOrder", "quantitty"),
        ("grpcurl 127.0.0.1:1 rewardservice.v1.RewardService/Create", "Create"),
        ("cat deploy/nothing", "deploy/nothing"),
        ("if true", "bash"),
        ("rm -rf $(frobnicate)", "frobnicate"),
    ],
)
def test_a_command_that_is_not_there_is_noticed(command: str, complaint: str) -> None:
    """Else the checks above would be worth nothing."""
    assert any(complaint in one for one in complaints(command))
