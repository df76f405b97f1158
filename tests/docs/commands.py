"""The commands that the pages print, and whether there is such a command: asked of the programs' own parsers."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping

from cyclopts import CycloptsError
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.json_format import ParseError

from docs.tree import ROOT
from reward_client_kit.__main__ import _parser as kit_parser
from reward_sandbox.__main__ import cli as sandbox
from reward_server.__main__ import cli as server
from rewardservice.cli import app as rewardctl
from rewardservice.v1 import catalog_service_pb2, operator_service_pb2, reward_service_pb2

CONTRACT = (catalog_service_pb2, operator_service_pb2, reward_service_pb2)
"""Imported for their descriptors."""

OTHERS = {
    ".", "./generate", ".venv/bin/pip", ".venv/bin/python", ".venv-bench/bin/py-spy", "buf", "cat", "cd", "chown",
    "cp", "createdb", "curl", "date", "docker", "echo", "export", "go", "gofmt", "grep", "git", "install", "java",
    "journalctl", "jq", "kubectl", "mvn", "node", "npm", "perf", "pg_basebackup", "pg_dump", "pg_restore", "pip",
    "python", "python3", "rm", "sed", "systemctl", "systemd-run", "tee", "useradd", "xargs",
}  # fmt: skip
"""Programs that aren't ours: their options aren't looked at, only what of ours is named behind them."""
WRAPPERS = frozenset({"sudo", "systemd-run", "kubectl", "docker", "sh"})
"""They may run a program of ours, or one of the others, in what follows."""
IMAGE = "reward-service:0.1.0"
PATH = re.compile(r"^(?:.*\$REWARDS/)?((?:clients|deploy|protos|docs)/[\w./-]+)")
MADE = (".tgz", "/.env", "docs/benchmarks/")
"""What a page's commands make."""
SEPARATORS = frozenset({"|", "||", "&&", ";", "(", ")", "{", "}", "&"})
TARGETS = re.compile(r"^([a-z%-]+):", re.MULTILINE)
COMMENT = re.compile(r"(?<!\S)#.*$", re.MULTILINE)
INSIDE = re.compile(r"\$\(([^()]*)\)")


def complaints(text: str) -> Iterator[str]:
    """What is wrong with a piece of shell: its syntax, a program or an option that isn't there, a file that is gone."""
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if checked.returncode:
        yield f"bash: {checked.stderr.strip()}"
    for inner in INSIDE.findall(text):
        yield from complaints(inner)
    for words in _commands(INSIDE.sub("…", text)):
        yield from _about(words)


def _commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a text, as lists of words; what is only redirected to is left out."""
    told = COMMENT.sub("", text.replace("\\\n", " ")).replace("\n", " ; ")
    lexer = shlex.shlex(told, posix=True, punctuation_chars="();&|<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in (*lexer, ";"):
        if word not in SEPARATORS:
            words.append(word)
        elif words:
            yield _plain(words)
            words = []


def _plain(words: list[str]) -> list[str]:
    """A command without assignments before it and redirections behind it."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in (">", ">>", "<", "2>"):
            skip = True
        elif kept or not re.match(r"\w+=", word):
            kept.append(word)
    return kept


def _about(words: list[str]) -> Iterator[str]:
    if not words:
        return
    program, rest = words[0].rpartition("/")[2] if words[0].startswith("/opt/") else words[0], words[1:]
    program = program.removeprefix(".venv/bin/") if program.removeprefix(".venv/bin/") in OURS else program
    if program in OURS:
        try:
            OURS[program](rest)
        except (CycloptsError, KeyError, ParseError, ValueError, SystemExit) as error:
            yield f"{' '.join(words)}: {error}"
    elif program not in OTHERS and program not in WRAPPERS:
        yield f"{program} is no program that a page may use (of {' '.join(words)})"
    if program in WRAPPERS:
        yield from _about(_wrapped(program, rest))
    for word in rest:
        path = PATH.search(word)
        if path and program != "kubectl" and not (ROOT / path[1]).exists() and not path[1].endswith(MADE):
            yield f"{' '.join(words)}: there is no {path[1]}"


def _wrapped(program: str, words: list[str]) -> list[str]:
    """The command that another one runs; empty: none that we know."""
    if program == "docker" and words[0] == "run" and "--entrypoint" not in words:
        # The image's own program is the server, which runs by itself.
        return ["reward-server", *(words[words.index(IMAGE) + 1 :] or ["serve"])]
    at = next(
        (n for n, word in enumerate(words) if word in OTHERS or word.removeprefix("/opt/reward/bin/") in OURS), None
    )
    return [] if at is None else words[at:]


def _server(words: list[str]) -> None:
    server.parse_args(words, exit_on_error=False, print_error=False)


def _sandbox(words: list[str]) -> None:
    sandbox.parse_args(words, exit_on_error=False, print_error=False)


def _rewardctl(words: list[str]) -> None:
    if words == ["--help"]:
        return
    _, bound, _ = rewardctl.meta.parse_args(words, exit_on_error=False, print_error=False)
    rewardctl.parse_args(bound.args, exit_on_error=False, print_error=False)


def _kit(words: list[str]) -> None:
    kit_parser().parse_args(words[: words.index("--")] if "--" in words else words)


def _make(words: list[str]) -> None:
    known = TARGETS.findall((ROOT / "Makefile").read_text())
    for word in words:
        if "=" not in word and word not in known and not word.startswith(("bench-", ".build/")):
            raise KeyError(word)


def _grpcurl(words: list[str]) -> None:
    """The method is one of the contract's, and `-d` one of its requests. Others' services are believed."""
    named = [word for word in words if re.fullmatch(r"rewardservice\.v1\.\w+[./]\w+", word)]
    if not named or "describe" in words:
        for word in named:
            descriptor_pool.Default().FindMethodByName(word)
        return
    [method] = named
    request = descriptor_pool.Default().FindMethodByName(method.replace("/", ".")).input_type
    if "-d" in words:
        json_format.Parse(words[words.index("-d") + 1], message_factory.GetMessageClass(request)())


OURS: Mapping[str, Callable[[list[str]], None]] = {
    "reward-server": _server,
    "reward-sandbox": _sandbox,
    "reward-client-kit": _kit,
    "rewardctl": _rewardctl,
    "make": _make,
    "grpcurl": _grpcurl,
}
"""Programs whose words are looked at."""


def printed(block: str) -> str:
    """The commands of a `console` block: what stands behind `$`, and the lines that go on behind a backslash."""
    return "\n".join(found[1] for found in re.finditer(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE))
