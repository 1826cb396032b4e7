"""A run's figures as a table for a terminal and as JSON for programs; `page.py` makes the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.targets import Outcome, Result

PLAIN_WIDTH: Final = 220


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report says."""

    is_quick: bool
    # When it began, as the account of a person: `2026-01-05 10:00 UTC`.
    began: str
    took_s: float
    machine: Mapping[str, str]
    figures: Sequence[Figure]
    results: Sequence[Result]


def print_report(run: Run) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    for name, text in run.machine.items():
        console.print(f"{name:>12}  {text}", soft_wrap=True)
    console.print(_figures_table(run.figures))
    console.print(_targets_table(run.results))


def write_json(path: Path, run: Run) -> None:
    """All rows as they were measured."""
    report: dict[str, Any] = {
        "is_quick": run.is_quick,
        "began": run.began,
        "took_s": run.took_s,
        "machine": dict(run.machine),
        "targets": [
            {
                "id": result.target.id,
                "what": result.target.what,
                "bound": result.target.bound.value,
                "aim": result.target.aim,
                "unit": result.target.unit,
                "value": result.value,
                "outcome": result.outcome.value,
                "limit": result.limit,
            }
            for result in run.results
        ],
        "figures": [asdict(figure) for figure in run.figures],
    }
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")


def time_text(us: float | None) -> str:
    """`4.31 µs`, `115 µs`, `3.20 ms`, `1.50 s`."""
    if us is None:
        return ""
    if us < 100:
        return f"{us:.2f} µs"
    if us < 1_000:
        return f"{us:.0f} µs"
    return f"{us / 1e3:.2f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"


def value_text(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def cells_of(figure: Figure) -> list[str]:
    """One row: rate, p50, p90, p99, p99.9, max, CPU time, value or ratio."""
    latency = figure.latency
    times = (
        (None,) * 5
        if latency is None
        else (latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us)
    )
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} ×"
    return [
        "" if figure.per_second is None else f"{figure.per_second:,.0f}",
        *map(time_text, times),
        time_text(figure.cpu_us),
        value_text(figure.value, figure.unit) or ratio,
    ]


COLUMNS: Final = ("per second", "p50", "p90", "p99", "p99.9", "max", "CPU each", "value")


def _figures_table(figures: Sequence[Figure]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", no_wrap=True)
    for heading in ("allocations", *COLUMNS):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    part = ""
    for figure in figures:
        if part and figure.part != part:
            table.add_section()
        part = figure.part
        size = "" if figure.allocations is None else f"{figure.allocations:,}"
        table.add_row(f"{part}: {figure.what}", size, *cells_of(figure), figure.note)
    return table


def _targets_table(results: Sequence[Result]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("target", "aim", "value", "outcome"):
        table.add_column(heading)
    for result in results:
        target = result.target
        table.add_row(
            target.what,
            f"{target.bound.value} {value_text(target.aim, target.unit)}",
            value_text(result.value, target.unit),
            result.outcome.value.upper() if result.outcome is Outcome.MISSED else result.outcome.value,
        )
    return table
