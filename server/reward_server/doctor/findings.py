"""What the doctor found, and what to do about it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    HINT = "hint"
    """Works, and should be known: it may become a problem, or it couldn't be looked at."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Nothing secret stands in it."""

    area: str
    """What it belongs to, as in "store" or "supplier kss_a"."""
    level: Level
    what: str
    mend: str = ""
    """What to do about it; "" when it is fine."""


class Report:
    """Collects findings."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def ok(self, area: str, what: str) -> None:
        """It is fine."""
        self.findings.append(Finding(area, Level.OK, what))

    def hint(self, area: str, what: str, mend: str) -> None:
        """It works, and should be known."""
        self.findings.append(Finding(area, Level.HINT, what, mend))

    def problem(self, area: str, what: str, mend: str) -> None:
        """It doesn't work, or won't soon."""
        self.findings.append(Finding(area, Level.PROBLEM, what, mend))

    def add(self, findings: Iterable[Finding]) -> None:
        """Adds what another report found."""
        self.findings.extend(findings)

    @property
    def problems(self) -> int:
        """How many there are."""
        return sum(finding.level is Level.PROBLEM for finding in self.findings)

    def text(self) -> str:
        """For people: by area, in the order in which they were looked at."""
        lines: list[str] = []
        for area in dict.fromkeys(finding.area for finding in self.findings):
            lines += ["", area] if lines else [area]
            for finding in self.findings:
                if finding.area == area:
                    lines.append(f"  {finding.level:<8} {finding.what}")
                    lines += [f"           → {finding.mend}"] if finding.mend else []
        hints = sum(finding.level is Level.HINT for finding in self.findings)
        lines += ["", f"{_count(self.problems, 'problem')}, {_count(hints, 'hint')}"]
        return "\n".join(lines)

    def json(self) -> str:
        """For programs."""
        outcome = "problems" if self.problems else "fine"
        found = [asdict(finding) for finding in self.findings]
        return json.dumps({"outcome": outcome, "findings": found}, ensure_ascii=False, indent=2)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"
