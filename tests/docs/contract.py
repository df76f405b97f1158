"""The reference of the contract (docs/reference/api.md), written from protos/: comments, fields, limits and errors.

PYTHONPATH=tests .venv/bin/python -m docs.contract > docs/reference/api.md
"""

import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

from docs.tree import ROOT
from rewardservice.v1.error_reason_pb2 import ErrorReason

PACKAGE = "rewardservice.v1"
FILES = ("reward_service", "catalog_service", "operator_service", "order", "error_reason")
"""In the order in which a caller meets them."""
FOREIGN: Mapping[str, str] = {
    "google.protobuf.Timestamp": "Timestamp",
    "google.protobuf.Duration": "Duration",
    "google.type.Money": "Money",
    "google.type.Date": "Date",
}
REASON = re.compile(rf"\b({'|'.join(name.removeprefix('ERROR_REASON_') for name in ErrorReason.keys()[1:])})\b")

# Numbers of fields in descriptor.proto, of which the paths of comments are made.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD = METHOD = VALUE = 2

HEAD = """\
<!-- Written from protos/ by tests/docs/contract.py; don't edit. -->

# The contract

Every call, message, limit and error of `rewardservice.v1`, as the comments of `protos/rewardservice/v1` have them. What
the reasons of errors mean, and what to do, stands under [errors](../errors.md); how streams are consumed under
[streams](../streams.md). `Timestamp`, `Duration`, `Money` and `Date` are the messages of `google.protobuf` and
`google.type`.

Fields without a value aren't sent: a text is then empty, a number 0, a list empty, a message unset. Ignore fields,
values of enumerations and kinds of stream messages that you don't know: [later releases may add
some](../compatibility.md).
"""

Place = tuple[int, ...]
"""Where a thing stands in its file, as descriptor.proto numbers it."""


def descriptors() -> Mapping[str, FileDescriptorProto]:
    """The contract's files with their comments, compiled by buf beside copies of what they import."""
    money = Path(next(iter(importlib.import_module("google.type").__path__)))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "protos" / "rewardservice", Path(folder) / "rewardservice")
        (Path(folder) / "google" / "type").mkdir(parents=True)
        for name in ("date.proto", "money.proto"):
            shutil.copy(money / name, Path(folder) / "google" / "type")
        buf = Path(sys.executable).with_name("buf")
        made = subprocess.run([buf, "build", "-o", "-#format=binpb"], cwd=folder, capture_output=True, check=True)
    files = FileDescriptorSet.FromString(made.stdout).file
    return {file.name.rpartition("/")[2].removesuffix(".proto"): file for file in files if file.package == PACKAGE}


class Commented:
    """A file's comments by the path of what they stand above."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._texts = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}

    def paragraphs(self, *path: int) -> list[str]:
        """The paragraphs of one, each on one line."""
        text = self._texts.get(path, "")
        return [" ".join(part.split()) for part in re.split(r"\n *\n", text) if part.strip()]

    def cell(self, *path: int) -> str:
        """One as the cell of a table."""
        return linked(" ".join(self.paragraphs(*path))).replace("|", "\\|")


def linked(text: str) -> str:
    """A text whose reasons of errors lead to what they mean."""
    return REASON.sub(lambda found: f"[{found[1]}](../errors.md#{found[1].lower()})", text)


def reference() -> str:
    """The page."""
    files = descriptors()
    lines = [HEAD]
    for name in FILES:
        file, comments = files[name], Commented(files[name])
        for at, service in enumerate(file.service):
            lines += [f"## {service.name}", "", *_text(comments, SERVICE, at)]
            for number, method in enumerate(service.method):
                lines += _method(method, comments, (SERVICE, at, METHOD, number))
    lines += ["## Messages", ""]
    for name in FILES:
        comments = Commented(files[name])
        for at, message in enumerate(files[name].message_type):
            lines += _message(message, comments, (MESSAGE, at))
    lines += ["## Enumerations", ""]
    for name in FILES:
        comments = Commented(files[name])
        for at, enum in enumerate(files[name].enum_type):
            lines += _enum(enum, comments, (ENUM, at))
    return "\n".join(lines).rstrip() + "\n"


def _text(comments: Commented, *path: int) -> Iterator[str]:
    for paragraph in comments.paragraphs(*path):
        yield linked(paragraph)
        yield ""


def _method(method: MethodDescriptorProto, comments: Commented, path: Place) -> Iterator[str]:
    yield f"### {method.name}"
    yield ""
    streamed = "a stream of " if method.server_streaming else ""
    yield f"{_type(method.input_type)} → {streamed}{_type(method.output_type)}"
    yield ""
    for line in _text(comments, *path):
        words, has_command, command = line.rpartition("cli: ")
        yield words.rstrip() if has_command else line
        if has_command:
            yield from ("", f"On the command line: `{command}`.")


def _message(message: DescriptorProto, comments: Commented, path: Place) -> Iterator[str]:
    yield f"### {message.name}"
    yield ""
    yield from _text(comments, *path)
    if message.field:
        yield "| field | type | meaning |"
        yield "| --- | --- | --- |"
    entries = {f".{PACKAGE}.{message.name}.{nested.name}": nested for nested in message.nested_type}
    for number, field in enumerate(message.field):
        meaning = comments.cell(*path, FIELD, number)
        if field.HasField("oneof_index") and not field.proto3_optional:
            meaning = f"One of `{message.oneof_decl[field.oneof_index].name}`. {meaning}"
        yield f"| {field.number} `{field.name}` | {_field_type(field, entries)} | {meaning} |"
    if message.field:
        yield ""


def _enum(enum: EnumDescriptorProto, comments: Commented, path: Place) -> Iterator[str]:
    yield f"### {enum.name}"
    yield ""
    yield from _text(comments, *path)
    yield "| value | meaning |"
    yield "| --- | --- |"
    for number, value in enumerate(enum.value):
        yield f"| {value.number} `{value.name}` | {comments.cell(*path, VALUE, number)} |"
    yield ""


def _field_type(field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto]) -> str:
    """As in the contract: `repeated`, `map<…>`, or the plain type."""
    if entry := entries.get(field.type_name):
        return f"map of {' to '.join(_field_type(each, {}) for each in entry.field)}"
    plain = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = _type(field.type_name) if field.type_name else plain
    return f"list of {name}" if field.label == FieldDescriptorProto.LABEL_REPEATED else name


def _type(name: str) -> str:
    """A message or an enumeration, with a link to it where it is ours."""
    full = name.removeprefix(".")
    if full in FOREIGN:
        return FOREIGN[full]
    short = full.removeprefix(f"{PACKAGE}.")
    return f"[{short}](#{short.lower()})"


if __name__ == "__main__":
    sys.stdout.write(reference())
