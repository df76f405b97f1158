"""Finds in the server's source what it logs: every event with its level and its fields."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error", "critical", "exception")
LOGGERS = ("log", "_log")
EITHER = "say"
"""Where a place chooses between two levels it calls the chosen one so."""


@dataclass(frozen=True, order=True)
class Event:
    """One event."""

    name: str
    level: str
    fields: tuple[str, ...]


def events(folder: Path) -> set[Event]:
    """All events of a package."""
    found: set[Event] = set()
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text())
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                chosen = _chosen(function)
                for call in ast.walk(function):
                    if isinstance(call, ast.Call):
                        for level in _levels(call, chosen):
                            found.update(_events(call, level, function))
    return found


def _assigns(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets)


def _chosen(function: ast.AST) -> set[str]:
    """Between which levels a function chooses."""
    return {
        part.attr
        for node in ast.walk(function)
        if _assigns(node, EITHER)
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and part.attr in LEVELS
    }


def _levels(call: ast.Call, chosen: set[str]) -> set[str]:
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr=level) if name in LOGGERS and level in LEVELS:
            return {"error" if level == "exception" else level}
        case ast.Name(id=name) if name == EITHER:
            return chosen
    return set()


def _events(call: ast.Call, level: str, function: ast.AST) -> Iterator[Event]:
    fields: set[str] = set()
    if isinstance(call.func, ast.Attribute) and call.func.attr == "exception":
        fields.add("exception")
    for keyword in call.keywords:
        if keyword.arg == "exc_info":
            fields.add("exception")
        elif keyword.arg is not None:
            fields.add(keyword.arg)
        else:
            fields.update(_keys(keyword.value, function))
    for name in _texts(call.args[0]):
        yield Event(name, level, tuple(sorted(fields)))


def _texts(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from _texts(node.body)
            yield from _texts(node.orelse)
        case _:
            raise NotImplementedError(f"an event must be a text of its own: {ast.unparse(node)}")


def _keys(node: ast.expr, function: ast.AST) -> Iterator[str]:
    match node:
        case ast.Dict():
            for key in node.keys:
                assert isinstance(key, ast.Constant), ast.unparse(node)
                yield str(key.value)
        case ast.IfExp():
            yield from _keys(node.body, function)
            yield from _keys(node.orelse, function)
        case ast.Name():
            # As it was assigned in the same function.
            given = [
                each.value for each in ast.walk(function) if isinstance(each, ast.Assign) and _assigns(each, node.id)
            ]
            assert given, ast.unparse(node)
            for value in given:
                yield from _keys(value, function)
        case _:
            raise NotImplementedError(f"fields must be seen where they are logged: {ast.unparse(node)}")
