"""A run as one self-contained page: targets, plots and every figure, in light and dark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

from benchmarks import beside, decide, endurance, hops, verify
from benchmarks.figures import Figure
from benchmarks.latency import EDGES_US, Latency
from benchmarks.plots import COLOURS, Axis, Bar, Line, bar_plot, line_plot
from benchmarks.report import COLUMNS, Run, cells_of, time_text, value_text
from benchmarks.targets import Outcome, Result

STYLE: Final = Path(__file__).with_name("page.css")

_HEADINGS: Final = ("what", "allocations", *COLUMNS, "histogram")
_MARKS: Final = {Outcome.MET: "✓ met", Outcome.MISSED: "✗ missed", Outcome.NOT_MEASURED: "– not measured"}


def _short_time(us: float) -> str:
    """`10 µs`, `3.16 ms`: of a mark on an axis."""
    if us < 1e3:
        return f"{us:.3g} µs"
    return f"{us / 1e3:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


_TIME: Final = Axis("", is_logarithmic=True, text=_short_time)


def write_page(path: Path, run: Run) -> None:
    """Nothing on it is fetched from elsewhere."""
    title = "Cordboard: figures" + (" of a quick run" if run.is_quick else "")
    path.write_text(
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
        f"<h1>{title}</h1>"
        f"<p>Begun {escape(run.began)}, took {run.took_s / 60:.0f} min.{_warning(run)}</p>"
        f"<h2>Targets</h2>{_targets(run.results)}"
        f"<h2>Plots</h2>{''.join(_plots(run.figures))}"
        f"<h2>Every figure</h2>{_figures(run.figures)}"
        f"<h2>The machine</h2>{_machine(run)}"
        "</main></body></html>\n",
        encoding="utf-8",
    )


def _warning(run: Run) -> str:
    return " Its rounds are short: good for seeing that all works, not for quoting." if run.is_quick else ""


# ── tables ───────────────────────────────────────────────────────────────────


def _targets(results: Sequence[Result]) -> str:
    rows = "".join(
        f'<tr class="{result.outcome.name.lower()}"><td>{escape(result.target.what)}'
        + (f'<p class="note">{escape(result.limit)}</p>' if result.limit else "")
        + f"</td><td>{result.target.bound.value} {value_text(result.target.aim, result.target.unit)}</td>"
        f"<td>{value_text(result.value, result.target.unit)}</td>"
        f"<td>{_MARKS[result.outcome]}</td></tr>"
        for result in results
    )
    return f"<table><tr><th>what</th><th>target</th><th>value</th><th></th></tr>{rows}</table>"


def _figures(figures: Sequence[Figure]) -> str:
    # A part that was measured at several sizes is one table all the same.
    parts: defaultdict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        parts[figure.part].append(figure)
    return "".join(_part(part, rows) for part, rows in parts.items())


def _part(part: str, figures: Sequence[Figure]) -> str:
    """Without the columns that nothing in it fills."""
    rows = [_row(figure) for figure in figures]
    shown = [place for place in range(len(_HEADINGS)) if any(row[place] for row in rows)]
    head = "".join(f"<th>{_HEADINGS[place]}</th>" for place in shown)
    body = "".join(f"<tr>{''.join(f'<td>{row[place]}</td>' for place in shown)}</tr>" for row in rows)
    return f'<h3>{escape(part)}</h3><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _row(figure: Figure) -> list[str]:
    """As HTML, a cell for each of the headings."""
    size = "" if figure.allocations is None else f"{figure.allocations:,}"
    note = figure.note
    if figure.generator_late_p99_us is not None:
        note += f"{'; ' if note else ''}generator late by {time_text(figure.generator_late_p99_us)} (p99)"
    return [
        escape(figure.what) + (f'<p class="note">{escape(note)}</p>' if note else ""),
        *map(escape, (size, *cells_of(figure))),
        "" if figure.latency is None else _sparkline(figure.latency),
    ]


def _sparkline(latency: Latency) -> str:
    """A bar for each step of 26 %, from the fastest to the slowest; their heights are roots, so that one in a
    thousand can still be seen."""
    places = {EDGES_US.index(edge_us): count for edge_us, count in latency.histogram}
    first, last = min(places), max(places)
    most = max(places.values())
    width = 120 / (last - first + 1)
    bars = "".join(
        f'<rect class="bar c0" x="{(place - first) * width:.1f}" width="{max(width - 1, 0.5):.1f}" '
        f'y="{22 - 22 * (count / most) ** 0.5:.1f}" height="{22 * (count / most) ** 0.5:.1f}"/>'
        for place, count in places.items()
    )
    span = f"{latency.requests:,} requests, up to {time_text(EDGES_US[first])} … {time_text(EDGES_US[last])}"
    return f'<svg class="spark" viewBox="0 0 120 22"><title>{escape(span)}</title>{bars}</svg>'


def _machine(run: Run) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in run.machine.items()
    )
    return f'<table class="machine">{rows}</table>'


# ── plots ────────────────────────────────────────────────────────────────────


def _plots(figures: Sequence[Figure]) -> Iterator[str]:
    """Those for which there is anything to be drawn."""
    sizes = Axis("allocations", is_logarithmic=True, text="{:,.0f}".format)
    if lines := _by_size(figures, decide.PART, without="the timer itself"):
        microseconds = Axis("median, µs", text="{:.3g}".format)
        yield _plot("A decision by board size", line_plot(lines, sizes, microseconds))
    if lines := _by_size(figures, hops.PART, ending="/s due"):
        yield _plot("Applet hops by board size", line_plot(lines, sizes, replace(_TIME, label="median")))
    for hop, bars in _rates(figures):
        yield _plot(f"The {hop} hop beside its peers", bar_plot(bars, "requests/s, one core, 32 connections"))
    for title, lines in _at_half_load(figures):
        yield _plot(title, _distribution(lines))
    if lines := [
        _shares(figure.what, figure.latency)
        for figure in figures
        if figure.part == verify.PART and figure.latency is not None
    ]:
        yield _plot("Right PINs, durable before the reply", _distribution(lines))
    minutes = Axis("minutes", text="{:g}".format)
    for figure in figures:
        if figure.part == endurance.PART and figure.course:
            axis = Axis(figure.unit, text="{:.3g}".format)
            yield _plot(figure.what, line_plot([Line(figure.unit, figure.course)], minutes, axis))


def _plot(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _distribution(lines: Sequence[Line]) -> str:
    share = Axis("% of requests", text="{:.3g}".format)
    return line_plot(lines[:COLOURS], replace(_TIME, label="latency"), share)


def _shares(name: str, latency: Latency) -> Line:
    return Line(name, [(edge_us, count / latency.requests * 100) for edge_us, count in latency.histogram])


def _by_size(figures: Sequence[Figure], part: str, *, ending: str = "", without: str = "") -> list[Line]:
    """A line for each case that was measured at two sizes or more."""
    points: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for figure in figures:
        if (
            figure.part == part
            and figure.what.endswith(ending)
            and figure.what != without
            and figure.allocations is not None
            and figure.latency is not None
        ):
            points[figure.what].append((figure.allocations, figure.latency.p50_us))
    return [Line(name, sorted(some)) for name, some in points.items() if len(some) > 1][:COLOURS]


def _rates(figures: Sequence[Figure]) -> Iterator[tuple[str, list[Bar]]]:
    rows = [
        figure
        for figure in figures
        if figure.part == beside.PART and figure.per_second is not None and " half of " not in figure.what
    ]
    for hop, group in groupby(rows, key=lambda figure: figure.what.partition(": ")[0]):
        bars = [
            Bar(figure.what.partition(": ")[2], figure.per_second or 0.0, f"{figure.per_second:,.0f}", place)
            for place, figure in enumerate(group)
        ]
        yield hop, sorted(bars, key=lambda bar: -bar.value)


def _at_half_load(figures: Sequence[Figure]) -> Iterator[tuple[str, list[Line]]]:
    """A pair for each hop and peer, in the order in which they were measured: ours, then theirs."""
    rows = [figure for figure in figures if figure.part == beside.PART and " half of " in figure.what]
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert ours.latency is not None
        assert theirs.latency is not None
        hop, _, peer = theirs.what.removesuffix(" at half of it").partition(": ")
        lines = [_shares("cordboard", ours.latency), _shares(peer, theirs.latency)]
        yield f"The {hop} hop at half of what {peer} can do", lines
