"""Tables and the page: what was measured, for people. The page is one file, with its plots drawn as SVG in it."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from reward_bench.figures import Figure, Series, shown

PARTS: Mapping[str, tuple[str, str]] = {
    "create": ("CreateOrder", "What durability, access, validation, sealing, metrics and logs cost one call."),
    "order": ("The whole path", "From the call to the card on the client's stream, beside a proxy that keeps nothing."),
    "streams": ("Streams", "Updates out, beside streams of finished bytes."),
    "rivals": ("What a team would write instead", "The same order on a workflow library and on a plain web service."),
    "latency": ("Latency", "One order at a time, fifty a second."),
    "stored": ("Growth", "The same with many orders stored."),
    "restart": ("Restart", "With 100,000 orders in flight."),
    "idle": ("Idle streams", "Thousands of streams on which nothing happens."),
    "sqlite": ("SQLite", "The embedded store without a server around it."),
    "replicas": ("PostgreSQL", "Any number of processes on one database."),
    "stages": ("Where the time goes", "The server's CPU time for one order, by stage."),
}
"""Parts of the benchmark in the order of the page: title and a sentence."""

OURS, OTHERS = "var(--ours)", "var(--other)"
WIDTH, LEFT, RIGHT, BAR, GAP = 860, 250, 110, 20, 12


def judged(figure: Figure) -> str:
    """Whether the aim is met, in a word, or by how much it is missed."""
    if figure.aim is None:
        return ""
    if figure.met:
        return "met"
    return f"missed by {100 * figure.aim.missed_by(figure.judged.median):.0f}\u00a0%"


def spread(series: Series) -> str:
    """Median, lowest and highest."""
    unit = series.unit
    if len(series.values) == 1:
        return shown(series.median, unit)
    return f"{shown(series.median, unit)} ({shown(series.low)}–{shown(series.high)})"


def text_table(figures: Sequence[Figure]) -> str:
    """For a terminal."""
    lines = []
    for figure in figures:
        lines.append(figure.title)
        lines.extend(f"  {series.label:<38} {spread(series)}" for series in figure.series)
        if figure.ratio is not None:
            lines.append(f"  {figure.ratio.label:<38} {spread(figure.ratio)}")
        if figure.aim is not None:
            lines.append(f"  {'aim':<38} {figure.aim.sign} {shown(figure.aim.value)}: {judged(figure)}")
        lines.extend(f"    {name:<48} {shown(value)}" for name, value in figure.facts.items())
    return "\n".join(lines)


def markdown(result: Mapping[str, Any], parts: Mapping[str, Sequence[Figure]]) -> str:
    """The table of `docs/benchmarks/`."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; don't edit. [The same with plots](index.html) (open it in a browser),",
        "[the numbers](figures.json), and [where the time goes](../performance.md). Each figure is the median of the",
        "rounds, with the lowest and the highest in brackets; a ratio is made of two neighbouring turns of one round.",
        "How each is measured stands at the top of its file in `benchmarks/reward_bench/`.",
        "",
        _about(result),
    ]
    for name, figures in parts.items():
        title, sentence = PARTS[name]
        lines += ["", f"## {title}", "", f"{sentence} `make bench-{name}`", ""]
        if name == "stages":
            for figure in figures:
                lines += [
                    figure.title + f": **{shown(figure.series[0].median)}** in all",
                    "",
                    "| stage | µs |",
                    "| --- | ---: |",
                ]
                lines += [f"| {stage} | {shown(value)} |" for stage, value in figure.facts.items()]
                lines.append("")
            lines.pop()
            continue
        lines += ["| what | measured | ratio | aim | |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(figure) for figure in figures]
    return "\n".join(lines) + "\n"


def stages_table(figures: Sequence[Figure], says: Mapping[str, str]) -> str:
    """The stages of both paths side by side, for `docs/performance.md`."""
    create, order = ({**figure.facts} for figure in figures)
    stages = [stage for stage in order if stage in says] + [stage for stage in create if stage not in order]
    stages = sorted(set(stages) & set(says), key=lambda stage: (stage.startswith("gRPC"), -order.get(stage, 0.0)))
    bare = [next(value for name, value in found.items() if name not in says) for found in (create, order)]
    lines = ["| stage | CreateOrder, µs | whole path, µs | what it is |", "| --- | ---: | ---: | --- |"]
    for stage in stages:
        cells = " | ".join(shown(found[stage]) if found.get(stage) else "–" for found in (create, order))
        lines.append(f"| {stage} | {cells} | {says[stage]} |")
    both = " | ".join(f"**{shown(figure.series[0].median)}**" for figure in figures)
    lines.append(f"| **all** | {both} | CPU time of the server's process |")
    lines.append(
        f"| bare | {shown(bare[0])} | {shown(bare[1])} | the echo's for a call, the naive proxy's for an order |"
    )
    return "\n".join(lines)


def _about(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"Taken on {result['taken']} at {machine['commit']}: {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, {packages}. "
        f"{result['rounds']} rounds; load average before the first part {result['load_average']:.1f}. The server has "
        "one core, the load and the supplier the other one."
    )


def _row(figure: Figure) -> str:
    measured = "<br>".join(f"{series.label}: {spread(series)}" for series in figure.series)
    ratio = "" if figure.ratio is None else f"**{spread(figure.ratio).replace(' ', '** ', 1)} {figure.ratio.label}"
    aim = "" if figure.aim is None else f"{figure.aim.sign} {shown(figure.aim.value)}"
    note = f"<br>{figure.note}" if figure.note else ""
    return f"| {figure.title}{note} | {measured} | {ratio} | {aim} | {judged(figure)} |"


# --- The page ---------------------------------------------------------------------------------------------------------

STYLE = """
:root { --ground: #fbfaf8; --ink: #22262b; --quiet: #6c737b; --line: #dedbd4; --ours: #0f766e; --other: #b9b4a8;
  --dot: #22262b; --aim: #b4530a; --good: #0f766e; --bad: #b4530a; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --ink: #e7e5e0; --quiet: #9aa1a9;
  --line: #32363b;
 --ours: #2dd4bf; --other: #5b6067; --dot: #e7e5e0; --aim: #fb923c; --good: #2dd4bf; --bad: #fb923c; --card: #1d2024 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 940px; margin: 0 auto; padding: 48px 20px 80px }
h1 { font-size: 2rem; margin: 0 0 8px; letter-spacing: -0.02em } h2 { margin: 56px 0 4px; font-size: 1.35rem }
p { margin: 0 0 12px; max-width: 46em } .quiet { color: var(--quiet); font-size: .9rem }
section.figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px 10px;
  margin: 14px 0 }
h3 { margin: 0 0 2px; font-size: 1rem; font-weight: 600 }
.ratio { font-size: 1.05rem; margin: 0 0 6px } .ratio b { font-size: 1.5rem; letter-spacing: -0.02em }
.met { color: var(--good) } .missed { color: var(--bad) }
svg { width: 100%; height: auto; display: block } svg text { font: 13px system-ui, sans-serif; fill: var(--ink) }
svg .label { fill: var(--quiet) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 28px 0 8px }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px }
.tile b { display: block; font-size: 1.7rem; letter-spacing: -0.02em; line-height: 1.2 }
.tile span { color: var(--quiet); font-size: .85rem; display: block }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 14px; margin: 6px 0 6px; font-size: .85rem;
  color: var(--quiet) } dd { margin: 0; font-variant-numeric: tabular-nums }
"""


def page(result: Mapping[str, Any], parts: Mapping[str, Sequence[Figure]]) -> str:
    """The page."""
    aimed = [figure for figures in parts.values() for figure in figures if figure.aim is not None]
    tiles = "".join(map(_tile, aimed))
    sections = "".join(_section(name, figures) for name, figures in parts.items())
    met = sum(bool(figure.met) for figure in aimed)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>RewardService: benchmarks</title><style>{STYLE}</style></head><body><main>
<h1>How fast, beside the bare path</h1>
<p>Every figure is a ratio or a pair measured in one run, in alternating turns. Durability, sealing, access, validation,
metrics and logs are on in all of them. {met} of {len(aimed)} aims are met.</p>
<p class="quiet">{html.escape(_about(result))}</p>
<div class="tiles">{tiles}</div>
{sections}
</main></body></html>
"""


def _tile(figure: Figure) -> str:
    series, aim = figure.judged, figure.aim
    assert aim is not None  # noqa: S101 - only those with one come here
    state = "met" if figure.met else "missed"
    return (
        f'<div class="tile"><b class="{state}">{shown(series.median, series.unit)}</b>'
        f"{html.escape(figure.title)}<span>aim {aim.sign} {shown(aim.value)}: {judged(figure)}</span></div>"
    )


def _section(name: str, figures: Sequence[Figure]) -> str:
    title, sentence = PARTS[name]
    drawn = "".join(_stages(figure) if name == "stages" else _figure(figure) for figure in figures)
    return f'<h2>{html.escape(title)}</h2><p class="quiet">{html.escape(sentence)}</p>{drawn}'


def _figure(figure: Figure) -> str:
    ratio = ""
    if figure.ratio is not None:
        ratio = (
            f'<p class="ratio"><b>{shown(figure.ratio.median, "×")}</b> {html.escape(figure.ratio.label)} '
            f'<span class="quiet">({shown(figure.ratio.low)}–{shown(figure.ratio.high)})</span> {_verdict(figure)}</p>'
        )
    elif figure.aim is not None:
        ratio = f'<p class="ratio">{_verdict(figure)}</p>'
    note = f'<p class="quiet">{html.escape(figure.note)}</p>' if figure.note else ""
    facts = "".join(f"<dt>{html.escape(name)}</dt><dd>{shown(value)}</dd>" for name, value in figure.facts.items())
    details = f"<details><summary class='quiet'>more</summary><dl>{facts}</dl></details>" if facts else ""
    bars = _bars([(series, OURS if place == 0 else OTHERS) for place, series in enumerate(figure.series)])
    return f'<section class="figure"><h3>{html.escape(figure.title)}</h3>{ratio}{bars}{note}{details}</section>'


def _verdict(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    state = "met" if figure.met else "missed"
    return f'<span class="{state}">aim {figure.aim.sign} {shown(figure.aim.value)}: {judged(figure)}</span>'


def _bars(rows: Sequence[tuple[Series, str]]) -> str:
    """Bars of the medians, with a dot for each round."""
    longest = max(series.high for series, _ in rows) or 1.0
    room = WIDTH - LEFT - RIGHT
    height = len(rows) * (BAR + GAP)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img">']
    for place, (series, colour) in enumerate(rows):
        y = place * (BAR + GAP)
        middle = y + BAR / 2
        x = LEFT + room * series.median / longest
        parts.append(
            f'<text class="label" x="{LEFT - 10}" y="{middle + 5}" text-anchor="end">{html.escape(series.label)}</text>'
            f'<rect x="{LEFT}" y="{y}" width="{max(1.5, x - LEFT):.1f}" height="{BAR}" rx="3" fill="{colour}"/>'
        )
        parts.extend(
            f'<circle cx="{LEFT + room * value / longest:.1f}" cy="{middle}" r="2.4" fill="var(--dot)" opacity=".55"/>'
            for value in series.values
        )
        end = LEFT + room * series.high / longest
        parts.append(f'<text x="{end + 8:.1f}" y="{middle + 5}">{shown(series.median, series.unit)}</text>')
    return "".join(parts) + "</svg>"


def _stages(figure: Figure) -> str:
    """One bar for each stage."""
    rows = [
        (Series(stage, "µs", (value,)), OTHERS if stage.startswith(("a bare", "the naive", "gRPC")) else OURS)
        for stage, value in figure.facts.items()
    ]
    total = f'<p class="ratio"><b>{shown(figure.series[0].median)}</b> µs in all</p>'
    return f'<section class="figure"><h3>{html.escape(figure.title)}</h3>{total}{_bars(rows)}</section>'
