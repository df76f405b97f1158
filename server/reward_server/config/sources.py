"""Where values come from: a TOML file, environment variables over it, and files that hold secrets."""

import difflib
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

from reward_server.config.problems import ConfigError, Path, Problem, Problems, dotted

PREFIX = "REWARD_"
SEPARATOR = "__"

LISTS = frozenset({"clients", "products"})
"""Sections that are lists: a variable sets them whole."""

MAX_SECRET_BYTES = 65_536

_SERVICE_LINK = re.compile(
    r"REWARD_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Kubernetes puts such variables into every pod that can see a Service named `reward` or `reward-…`."""


class EnvText(str):
    """A value from an environment variable: text, whatever its key wants."""

    __slots__ = ()


class Sources:
    """The raw values of all sources laid over each other, and where each of them came from."""

    def __init__(self, file: FilePath | None, environ: Mapping[str, str], fixed_keys: Collection[str]) -> None:
        """`fixed_keys`: every key whose name is fixed, as in "grpc.bind"; their first parts are the sections."""
        self.values: dict[str, Any] = {}
        self._lines: dict[Path, int] = {}
        self._variables: dict[Path, str] = {}
        self._file = file
        self._variable_names = [variable_name(key.split(".")) for key in fixed_keys]
        self._sections = {key.split(".")[0] for key in fixed_keys}
        self.problems = Problems(self.source_of)
        if file is not None:
            text = _read(file)
            self.values = _parse(file, text)
            self._lines = key_lines(text)
        self._overlay(environ)

    def source_of(self, path: Path) -> str:
        """ "reward.toml line 12" or the environment variable; of the nearest enclosing table for a missing key."""
        for length in range(len(path), 0, -1):
            if variable := self._variables.get(path[:length]):
                return variable
            if line := self._lines.get(path[:length]):
                return f"{self._file.name if self._file else ''} line {line}"
        return ""

    def from_environment(self, path: Path) -> bool:
        """Whether the value at exactly this path was set by an environment variable."""
        return path in self._variables

    def _overlay(self, environ: Mapping[str, str]) -> None:
        # Fewer levels first, so that REWARD_GRPC__BIND wins over REWARD_GRPC.
        for name in sorted(environ, key=lambda name: (name.count(SEPARATOR), name)):
            if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name):
                self._set(name, tuple(name.removeprefix(PREFIX).lower().split(SEPARATOR)), environ[name])

    def _set(self, name: str, keys: tuple[str, ...], text: str) -> None:
        if keys[0] not in self._sections:
            self.problems.found.append(Problem(name, "unknown variable", self._variable_meant(name)))
            return
        self._variables[keys] = name
        if len(keys) > 1 and keys[0] in LISTS:
            self.problems.add(keys, "part of a list", f"set the whole list by {variable_name(keys[:1])}, in JSON")
            return
        if len(keys) > (3 if keys[0] == "suppliers" else 2):
            self.problems.add(keys, "no such key", "there are fewer levels here")
            return
        if len(keys) == 1 or (len(keys) == 2 and keys[0] == "suppliers"):
            value = self._table(keys, text)
            if value is None:
                return
        else:
            value = EnvText(text)
        table = self.values
        for key in keys[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                self.problems.add(keys, "not a table", f"set {dotted(keys[:1])} as a whole, in JSON")
                return
            table = inner
        _merge(table, keys[-1], value)

    def _table(self, keys: tuple[str, ...], text: str) -> Any:
        wanted = list if keys[0] in LISTS else dict
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, wanted):
            article = "a JSON list" if wanted is list else "a JSON table"
            mend = f"write {article}, or set single keys with {SEPARATOR} between the levels"
            self.problems.add(keys, f"not {article}", mend)
            return None
        self._forget_lines(keys, value)
        return value

    def _forget_lines(self, keys: tuple[str, ...], value: list[Any] | dict[str, Any]) -> None:
        # What a variable replaces no longer comes from the file.
        at = len(keys)
        for path in [p for p in self._lines if p[:at] == keys and len(p) > at]:
            if isinstance(value, list) or path[at] in value:
                del self._lines[path]

    def _variable_meant(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._variable_names, n=1, cutoff=0.8)
        example = variable_name(("suppliers", "kss_a", "apikey"))
        return f"did you mean {near[0]}?" if near else f"two underscores stand between the levels, as in {example}"


def decode(problems: Problems, path: Path, value: Any, annotation: Any) -> Any:
    """Text of an environment variable as its key wants it: JSON for lists and tables, else the text itself."""
    if not isinstance(value, EnvText):
        return value
    if not _is_collection(annotation):
        return str(value)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        problems.add(path, "not JSON", "write lists and tables of environment variables in JSON")
        return UNUSABLE


UNUSABLE = object()
"""Stands for a value whose problem was reported already."""


def variable_name(path: Iterable[str | int]) -> str:
    """The environment variable of a key."""
    return PREFIX + SEPARATOR.join(str(part) for part in path).upper()


def take_secret(sources: Sources, path: Path, raw: dict[str, Any], key: str, *, in_file: bool = True) -> str | None:
    """Takes the secret `key` or `key_file` out of a raw table; None after reporting what is wrong with it."""
    given, file = raw.pop(key, None), raw.pop(f"{key}_file", None)
    here, there = (*path, key), (*path, f"{key}_file")
    problems = sources.problems
    ways = _ways(here, in_file=in_file)
    if given is not None and file is not None:
        # The environment wins over the file, as everywhere.
        if sources.from_environment(here) == sources.from_environment(there):
            problems.add(here, f"set twice, also as {dotted(there)}", "keep one of them")
            return None
        given, file = (given, None) if sources.from_environment(here) else (None, file)
    if file is not None:
        return _secret_of_file(problems, there, file)
    if given is not None and not in_file and not sources.from_environment(here):
        problems.add(here, "this secret doesn't belong into the configuration file", ways)
        return None
    if given is None or (isinstance(given, str) and not given.strip()):
        problems.add(here, "missing secret", ways)
        return None
    if not isinstance(given, str):
        problems.add(here, "not a text", "put quotes around it")
        return None
    return str(given).strip()


def _ways(path: Path, *, in_file: bool) -> str:
    name = variable_name(path)
    ways = f"set {dotted(path)}_file (or {name}_FILE) to a file that holds it, or set the environment variable {name}"
    return f"{ways}, or write {dotted(path)} into the configuration file" if in_file else ways


def _secret_of_file(problems: Problems, path: Path, file: object) -> str | None:
    if not isinstance(file, str) or not file:
        problems.add(path, "not a file name", "put the path in quotes")
        return None
    try:
        with FilePath(file).open("rb") as stream:
            text = stream.read(MAX_SECRET_BYTES + 1).decode().strip()
    except OSError as error:
        reason = error.strerror or "it can't be read"
        problems.add(path, f"can't read the file {os.path.abspath(file)}: {reason}", "create it or mend its rights")
        return None
    except ValueError:
        problems.add(path, "the file isn't UTF-8 text", "it holds the secret and nothing else")
        return None
    if not text or len(text) > MAX_SECRET_BYTES:
        what = "missing secret: the file is empty" if not text else "the file is too large for a secret"
        problems.add(path, what, "it holds the secret and nothing else")
        return None
    return text


def _is_collection(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(_is_collection(member) for member in typing.get_args(annotation))
    kind = origin or annotation
    return isinstance(kind, type) and not issubclass(kind, str) and issubclass(kind, Iterable)


def _merge(table: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, dict) and isinstance(table.get(key), dict):
        for inner, item in value.items():
            _merge(table[key], inner, item)
    else:
        table[key] = value


def _read(file: FilePath) -> str:
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            [Problem(str(file), error.strerror or "can't be read", "name the file with --config")]
        ) from None
    except ValueError:
        raise ConfigError([Problem(str(file), "not UTF-8", "save the file as UTF-8")]) from None


_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def _parse(file: FilePath, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib names keys and single characters, never values, so its message may be shown.
        message = str(error)
        at = _AT.search(message)
        line = f"line {at[1]}, column {at[2]}" if at and at[1] else "at its end"
        mend = "texts need quotes" if message.startswith("Invalid value") else ""
        raise ConfigError([Problem(str(file), f"not TOML: {_AT.sub('', message)}", mend, line)]) from None
    except ValueError:
        # Python reads no number of thousands of digits.
        raise ConfigError(
            [Problem(str(file), "not TOML: a number of thousands of digits", "no key needs one")]
        ) from None
    except RecursionError:
        raise ConfigError([Problem(str(file), "nested too deeply", "no key needs more than a few levels")]) from None


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")


def key_lines(text: str) -> dict[Path, int]:
    """The line of each key and table. A rough reading, only for messages: inline tables count as their key's line."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _resolve(_split(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(table + _split(key[1]), number)
    return lines


def _split(key: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def _resolve(header: Path, counts: Mapping[Path, int]) -> Path:
    """The path of a header below lists: [[products.offers]] belongs to the last product."""
    path: Path = ()
    for index, part in enumerate(header):
        path = (*path, part)
        if path in counts and index < len(header) - 1:
            path = (*path, counts[path])
    return path
