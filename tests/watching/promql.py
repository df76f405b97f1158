"""Evaluates Prometheus rules over made-up series: what `promtool test rules` does, for machines that don't have it.

It knows the part of the language that our rules and dashboards use, and says so when it meets another. Times are in
seconds.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import promql_parser as ast
import yaml

LOOK_BACK = 300.0
"""How old the latest sample of a series may be."""

Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, float]
Samples = list[tuple[float, float]]

_SERIES = re.compile(r"(\w+)\s*(?:\{(.*)\})?\s*")
_LABEL = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')
_STEP = re.compile(r"(-?[\d.]+|_)(?:([+-][\d.]+))?(?:x(\d+))?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """`1h30m` in seconds."""
    return float(sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text)))


def labels(pairs: Mapping[str, str]) -> Labels:
    """Labels in their order."""
    return tuple(sorted(pairs.items()))


@dataclass
class Series:
    """Made-up samples."""

    found: dict[str, list[tuple[dict[str, str], Samples]]] = field(default_factory=dict)

    def add(self, series: str, values: str, interval: float) -> None:
        """Adds a series in promtool's notation: `name{label="value"}` and `0x5 1+1x3 _`."""
        matched = _SERIES.fullmatch(series)
        assert matched is not None, series
        samples: Samples = []
        at = 0.0
        for value in _expanded(values):
            if value is not None:
                samples.append((at, value))
            at += interval
        self.found.setdefault(matched[1], []).append((dict(_LABEL.findall(matched[2] or "")), samples))


def _expanded(values: str) -> Iterator[float | None]:
    for step in values.split():
        matched = _STEP.fullmatch(step)
        assert matched is not None, step
        start, slope, times = matched.groups()
        if start == "_":
            yield from [None] * int(times or 1)
        else:
            for n in range(int(times or 0) + 1):
                yield float(start) + n * float(slope or 0)


class Evaluator:
    """Evaluates expressions at one moment."""

    def __init__(self, series: Series, at: float) -> None:
        self._series = series
        self._at = at

    def vector(self, expression: Any) -> Vector:
        """The value of an expression that is a vector."""
        value = self.value(expression)
        assert isinstance(value, dict), expression
        return value

    def value(self, expression: Any) -> Vector | float:
        """The value of an expression."""
        match expression:
            case ast.NumberLiteral():
                return float(expression.val)
            case ast.ParenExpr():
                return self.value(expression.expr)
            case ast.VectorSelector():
                return self._selected(expression)
            case ast.AggregateExpr():
                return self._aggregated(expression)
            case ast.Call():
                return self._called(expression)
            case ast.BinaryExpr():
                return self._combined(expression)
        raise NotImplementedError(f"{expression}")

    def _matching(self, selector: Any) -> Iterator[tuple[dict[str, str], Samples]]:
        for found, samples in self._series.found.get(selector.name, ()):
            if all(_matches(matcher, found.get(matcher.name, "")) for matcher in selector.matchers.matchers):
                yield found, samples

    def _selected(self, selector: Any) -> Vector:
        value: Vector = {}
        for found, samples in self._matching(selector):
            recent = [sample for at, sample in samples if self._at - LOOK_BACK < at <= self._at]
            if recent:
                value[labels({"__name__": selector.name, **found})] = recent[-1]
        return value

    def _ranges(self, selector: Any) -> Iterator[tuple[Labels, Samples, float]]:
        length = selector.range.total_seconds()
        for found, samples in self._matching(selector.vector_selector):
            window = [(at, sample) for at, sample in samples if self._at - length <= at <= self._at]
            yield labels(found), window, length

    def _called(self, call: Any) -> Vector:
        name = call.func.name
        if name == "histogram_quantile":
            return _quantiles(float(call.args[0].val), self.vector(call.args[1]))
        over: dict[str, Callable[[Samples, float], float | None]] = {
            "rate": lambda window, length: _per_second(self._increase(window, length), length),
            "increase": self._increase,
            "min_over_time": lambda window, _: min((value for _, value in window), default=None),
            "max_over_time": lambda window, _: max((value for _, value in window), default=None),
            "avg_over_time": lambda window, _: math.fsum(v for _, v in window) / len(window) if window else None,
        }
        if name not in over:
            raise NotImplementedError(name)
        value: Vector = {}
        for found, window, length in self._ranges(call.args[0]):
            result = over[name](window, length)
            if result is not None:
                value[found] = result
        return value

    def _increase(self, window: Samples, length: float) -> float | None:
        """As Prometheus does it: from first to last sample, resets added, drawn out to the ends of the range."""
        if len(window) < 2:
            return None
        (first_at, first), (last_at, last) = window[0], window[-1]
        resets = sum(a for (_, a), (_, b) in pairwise(window) if b < a)
        increase = last - first + resets
        sampled = last_at - first_at
        apart = sampled / (len(window) - 1)
        before, after = first_at - (self._at - length), self._at - last_at
        if increase > 0 and first >= 0:
            before = min(before, sampled * first / increase)
        drawn = sampled + sum(edge if edge < 1.1 * apart else apart / 2 for edge in (before, after))
        return increase * drawn / sampled

    def _aggregated(self, expression: Any) -> Vector:
        modifier = expression.modifier
        by: Sequence[str] = ()
        if modifier is not None:
            assert modifier.type == ast.AggModifierType.By, expression
            by = modifier.labels
        groups: dict[Labels, list[float]] = {}
        for found, value in self.vector(expression.expr).items():
            pairs = dict(found)
            groups.setdefault(labels({name: pairs[name] for name in by if name in pairs}), []).append(value)
        fold: dict[str, Callable[[list[float]], float]] = {"sum": math.fsum, "max": max, "min": min, "count": len}
        return {found: float(fold[str(expression.op)](values)) for found, values in groups.items()}

    def _combined(self, expression: Any) -> Vector | float:
        left, right = self.value(expression.lhs), self.value(expression.rhs)
        modifier, op = expression.modifier, str(expression.op)
        assert modifier is None or (modifier.matching is None and not modifier.return_bool), expression
        if isinstance(left, float) and isinstance(right, float):
            return _ARITHMETIC[op](left, right)
        if isinstance(left, float) or isinstance(right, float):
            return _with_number(op, left, right)
        keys = {_unnamed(found): value for found, value in right.items()}
        match op:
            case "and":
                return {found: value for found, value in left.items() if _unnamed(found) in keys}
            case "unless":
                return {found: value for found, value in left.items() if _unnamed(found) not in keys}
            case "or":
                known = {_unnamed(found) for found in left}
                return left | {found: value for found, value in right.items() if _unnamed(found) not in known}
        both = {found: (value, keys[_unnamed(found)]) for found, value in left.items() if _unnamed(found) in keys}
        if op in _COMPARISONS:
            return {found: a for found, (a, b) in both.items() if _COMPARISONS[op](a, b)}
        return {_unnamed(found): _ARITHMETIC[op](a, b) for found, (a, b) in both.items()}


_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else math.copysign(math.inf, a) if a else math.nan,
}


def _with_number(op: str, left: Vector | float, right: Vector | float) -> Vector:
    value: Vector = {}
    for found, each in (left if isinstance(left, dict) else right if isinstance(right, dict) else {}).items():
        a = left if isinstance(left, float) else each
        b = right if isinstance(right, float) else each
        if op not in _COMPARISONS:
            value[_unnamed(found)] = _ARITHMETIC[op](a, b)
        elif _COMPARISONS[op](a, b):
            value[found] = each
    return value


def _per_second(increase: float | None, length: float) -> float | None:
    return None if increase is None else increase / length


def _unnamed(found: Labels) -> Labels:
    return tuple(pair for pair in found if pair[0] != "__name__")


def _matches(matcher: Any, value: str) -> bool:
    match str(matcher.op):
        case "MatchOp.Equal":
            return bool(value == matcher.value)
        case "MatchOp.NotEqual":
            return bool(value != matcher.value)
        case "MatchOp.Re":
            return re.fullmatch(matcher.value, value) is not None
        case "MatchOp.NotRe":
            return re.fullmatch(matcher.value, value) is None
    raise NotImplementedError(str(matcher.op))


def _quantiles(quantile: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for found, value in buckets.items():
        pairs = dict(found)
        limit = float(pairs.pop("le").replace("+Inf", "inf"))
        groups.setdefault(labels({k: v for k, v in pairs.items() if k != "__name__"}), []).append((limit, value))
    return {found: _quantile(quantile, sorted(limits)) for found, limits in groups.items()}


def _quantile(quantile: float, buckets: list[tuple[float, float]]) -> float:
    total = buckets[-1][1]
    if not total or len(buckets) < 2 or buckets[-1][0] != math.inf:
        return math.nan
    rank = quantile * total
    place = next(n for n, (_, count) in enumerate(buckets) if count >= rank)
    if place == len(buckets) - 1:
        return buckets[-2][0]
    limit, count = buckets[place]
    below, before = (0.0, 0.0) if place == 0 else buckets[place - 1]
    return below + (limit - below) * (rank - before) / (count - before)


# --- Rules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fired:
    """A firing alert."""

    labels: Labels
    annotations: Labels


def firing(rule: Mapping[str, Any], series: Series, *, until: float, interval: float) -> set[Fired]:
    """The alerts of a rule that fire at a moment, after it was evaluated every `interval` from 0 on."""
    expression = ast.parse(rule["expr"])
    wait = seconds(str(rule.get("for", "0s")))
    since: dict[Labels, float] = {}
    at = 0.0
    while at <= until:
        now = {_unnamed(found) for found in Evaluator(series, at).vector(expression)}
        since = {found: since.get(found, at) for found in now}
        at += interval
    return {
        Fired(
            labels({**dict(found), **_filled(rule.get("labels", {}), found), "alertname": rule["alert"]}),
            labels(_filled(rule.get("annotations", {}), found)),
        )
        for found, begun in since.items()
        if at - interval - begun >= wait
    }


def _filled(templates: Mapping[str, str], found: Labels) -> dict[str, str]:
    pairs = dict(found)
    return {
        name: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda matched: pairs.get(matched[1], ""), template)
        for name, template in templates.items()
    }


def rules_of(text: str) -> dict[str, dict[str, Any]]:
    """The alerts of a rules file by name."""
    return {rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


def selectors(expression: Any) -> Iterator[tuple[str, Mapping[str, tuple[str, str]]]]:
    """Every metric that an expression reads, with its matchers: operator and value by label."""
    match expression:
        case ast.VectorSelector():
            matchers = expression.matchers.matchers
            yield str(expression.name), {m.name: (str(m.op).removeprefix("MatchOp."), m.value) for m in matchers}
        case ast.MatrixSelector():
            yield from selectors(expression.vector_selector)
        case ast.BinaryExpr():
            yield from selectors(expression.lhs)
            yield from selectors(expression.rhs)
        case ast.Call():
            for argument in expression.args:
                yield from selectors(argument)
        case ast.AggregateExpr() | ast.ParenExpr() | ast.UnaryExpr():
            yield from selectors(expression.expr)


def groupings(expression: Any) -> Iterator[tuple[Sequence[str], Iterable[str]]]:
    """Every `by (…)` of an expression with the metrics below it."""
    match expression:
        case ast.AggregateExpr():
            if expression.modifier is not None:
                yield expression.modifier.labels, [name for name, _ in selectors(expression.expr)]
            yield from groupings(expression.expr)
        case ast.BinaryExpr():
            yield from groupings(expression.lhs)
            yield from groupings(expression.rhs)
        case ast.Call():
            for argument in expression.args:
                yield from groupings(argument)
        case ast.ParenExpr():
            yield from groupings(expression.expr)
