"""What is wrong with a configuration: where, what, and how to mend it. Values that may be secret are never repeated."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

Path = tuple[str | int, ...]
"""A key, as in ("products", 0, "offers", 1, "unit_cost")."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend."""

    where: str
    """The key, as in "suppliers.kss_a.apikey", or the file."""
    what: str
    mend: str = ""
    source: str = ""
    """Where the value came from: a line of the file or an environment variable; "" when there is none."""

    def __str__(self) -> str:
        source = f" ({self.source})" if self.source else ""
        mend = f"; {self.mend}" if self.mend else ""
        return f"{self.where}{source}: {self.what}{mend}"


class ConfigError(Exception):
    """The configuration can't be used; every problem that was found is listed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def report(self) -> str:
        """The list for people."""
        count = len(self.problems)
        lines = [f"{count} problem{'s' * (count != 1)} in the configuration"]
        for problem in self.problems:
            source = f"   ({problem.source})" if problem.source else ""
            lines += ["", f"  {problem.where}{source}", f"    {problem.what}"]
            lines += [f"    → {problem.mend}"] if problem.mend else []
        return "\n".join(lines)


class Problems:
    """Collects problems and knows where each key was set."""

    def __init__(self, source_of: Callable[[Path], str]) -> None:
        self.found: list[Problem] = []
        self._source_of = source_of

    def add(self, path: Path, what: str, mend: str = "") -> None:
        """Adds a problem with the value at `path`."""
        self.found.append(Problem(dotted(path), what, mend, self._source_of(path)))

    def unknown_key(self, path: Path, known: Iterable[str]) -> None:
        """Adds "unknown key", with the nearest known one."""
        self.add(path, "unknown key", suggestion(str(path[-1]), known))

    def add_invalid(
        self, path: Path, error: ValidationError, known: Iterable[str] = (), hide: Sequence[str] = ()
    ) -> None:
        """Adds everything that pydantic found below `path`; the texts `hide` don't show."""
        seen = set()
        items = error.errors(include_url=False, include_input=False)
        for item in items:
            where = path + _location(item["loc"])
            kind, depth = item["type"], len(item["loc"])
            # pydantic counts the entries of a list that are fine: one whose entries are wrong isn't empty.
            if kind == "too_short" and any(i["loc"][:depth] == item["loc"] for i in items if len(i["loc"]) > depth):
                continue
            # A union reports each of its members; the first one says enough.
            if where in seen:
                continue
            seen.add(where)
            if kind == "missing":
                self.add(where, "missing", "this key has no default")
            elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
                self.unknown_key(where, known)
            elif kind == CUSTOM:
                context = item.get("ctx", {})
                self.add(where, str(context["what"]), str(context["mend"]))
            else:
                self.add(where, "not usable", _wanted(kind, item.get("ctx", {})) or _plain(scrubbed(item["msg"], hide)))

    def finish(self) -> None:
        """Raises ConfigError when anything was found."""
        if self.found:
            raise ConfigError(self.found)


CUSTOM = "reward_config"


def unusable(what: str, mend: str) -> PydanticCustomError:
    """The exception by which our own validators say what is wrong."""
    return PydanticCustomError(CUSTOM, "{what}; {mend}", {"what": what, "mend": mend})


def scrubbed(text: str, secrets: Sequence[str]) -> str:
    """The text without the secrets."""
    for secret in secrets:
        text = text.replace(secret, "•••") if len(secret) > 1 else text
    return text


def dotted(path: Path) -> str:
    """A path as people write it: products[0].offers[1].unit_cost."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def suggestion(word: str, known: Iterable[str]) -> str:
    """What was probably meant, else what there is."""
    words = sorted(known)
    near = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there is: {', '.join(words)}" if words else "remove it"


def _location(loc: Sequence[str | int]) -> Path:
    # pydantic adds the tried members of a union to the path ("literal['auto']", "bool"); they are no keys.
    return tuple(part for at, part in enumerate(loc) if at == 0 or not (part in _MEMBERS or "[" in str(part)))


_MEMBERS = frozenset({"bool", "int", "float", "str"})

_WANTED = {
    "string_type": "it should be a text in quotes",
    "int_type": "it should be a whole number",
    "int_parsing": "it should be a whole number",
    "int_from_float": "it should be a whole number",
    "float_type": "it should be a number",
    "float_parsing": "it should be a number",
    "finite_number": "it should be a number",
    "bool_type": "it should be true or false",
    "bool_parsing": "it should be true or false",
    "path_type": "it should be the name of a file, in quotes",
    "list_type": "it should be a list in brackets",
    "tuple_type": "it should be a list in brackets",
    "frozen_set_type": "it should be a list in brackets",
    "dict_type": "it should be a table",
    "model_type": "it should be a table",
    "greater_than": "it should be more than {gt:g}",
    "greater_than_equal": "it should be at least {ge:g}",
    "less_than": "it should be less than {lt:g}",
    "less_than_equal": "it should be at most {le:g}",
    "string_too_short": "it is empty; write something",
    "string_too_long": "it should have at most {max_length} characters",
    "too_short": "the list is empty; write at least one",
    "too_long": "it should have at most {max_length} entries",
    "literal_error": "it should be {expected}",
    "enum": "it should be {expected}",
}
"""What a key takes, for each of pydantic's complaints; the lengths that are too short are all zero."""


def _wanted(kind: str, context: Mapping[str, Any]) -> str:
    return _WANTED.get(kind, "").format(**context)


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return re.sub(r"^(Input|String|Value) should", "it should", text)
