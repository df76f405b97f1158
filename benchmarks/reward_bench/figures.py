"""Figures: what was measured in each round, in one shape for tables, JSON and pages."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Round = Callable[[], Awaitable[Mapping[str, float]]]
"""One round of one side: what it measured, by name."""


@dataclass(frozen=True, slots=True)
class Series:
    """One thing, measured once a round."""

    label: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The lowest round."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest round."""
        return max(self.values)

    def over(self, other: "Series", label: str) -> "Series":
        """The ratios of the rounds, each made of two neighbours in time."""
        return Series(label, "×", tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Plain values; the median for readers without a program."""
        return {"label": self.label, "unit": self.unit, "median": rounded(self.median),
                "values": [rounded(value) for value in self.values]}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be."""

    sign: Literal["≥", "≤"]
    value: float

    def met(self, value: float) -> bool:
        """Whether a figure as it is shown, with two decimals, is there."""
        return round(value, 2) >= self.value if self.sign == "≥" else round(value, 2) <= self.value

    def missed_by(self, value: float) -> float:
        """The share of the aim that is missing, or too much."""
        return abs(value - self.value) / self.value


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was compared, in what ratio, and the aim."""

    key: str
    title: str
    series: tuple[Series, ...]
    """What was measured, ours first; of the same unit."""
    ratio: Series | None = None
    aim: Aim | None = None
    """Of the ratio, or of the first series where there is none."""
    guarded: bool = False
    """Whether `make bench-quick` compares it."""
    note: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What explains it: CPU per call, the load's share of its core."""

    @property
    def judged(self) -> Series:
        """What the aim is about."""
        return self.series[0] if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the aim is met, by the median; None without an aim."""
        return None if self.aim is None else self.aim.met(self.judged.median)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "key": self.key,
            "title": self.title,
            "series": [series.to_json() for series in self.series],
            "ratio": None if self.ratio is None else self.ratio.to_json(),
            "aim": None if self.aim is None else {"sign": self.aim.sign, "value": self.aim.value, "met": self.met},
            "guarded": self.guarded,
            "note": self.note,
            "facts": {name: rounded(value) for name, value in self.facts.items()},
        }


def figure_from(found: Mapping[str, Any]) -> Figure:
    """A figure as it was written down."""
    aim = found["aim"]
    return Figure(
        key=found["key"],
        title=found["title"],
        series=tuple(map(_series_from, found["series"])),
        ratio=None if found["ratio"] is None else _series_from(found["ratio"]),
        aim=None if aim is None else Aim(aim["sign"], aim["value"]),
        guarded=found["guarded"],
        note=found["note"],
        facts=found["facts"],
    )


def _series_from(found: Mapping[str, Any]) -> Series:
    return Series(found["label"], found["unit"], tuple(found["values"]))


@dataclass(frozen=True, slots=True)
class Plan:
    """How thoroughly to measure."""

    rounds: int = 5
    scale: float = 1.0
    """Of the numbers of orders and messages."""

    def number(self, full: int, *, step: int = 1) -> int:
        """So many of something, a multiple of `step`."""
        return max(step, int(full * self.scale) // step * step)


async def in_turns(plan: Plan, sides: Mapping[str, Round]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Lets the sides take turns, another one first each time, after one turn that doesn't count.

    What disturbs the machine for longer than a turn disturbs all sides alike. Returns side → name → values.
    """
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in sides}
    names = list(sides)
    for name in names:
        await sides[name]()
    for turn in range(plan.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(await sides[name]())
    return {name: columns(rounds) for name, rounds in found.items()}


def columns(rounds: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """The values of each name over the rounds."""
    return {name: tuple(one[name] for one in rounds) for name in rounds[0]}


def at(values: Sequence[float], share: float) -> float:
    """A percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def rounded(value: float) -> float:
    """Four digits: more of them are noise."""
    return float(f"{value:.4g}")


def shown(value: float, unit: str = "") -> str:
    """A value for people."""
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{number} {unit}".rstrip() if unit and not unit.startswith(("/", "×")) else f"{number}{unit}"
