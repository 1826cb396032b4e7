"""What measurements return: one row a figure, with everything that is needed to check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.engine import Measured
from benchmarks.latency import Latency, latency_of


@dataclass(frozen=True, slots=True)
class Figure:
    """`part` and `what` say what was measured, on how many allocations; what was not measured is None."""

    part: str
    what: str
    allocations: int | None = None
    per_second: float | None = None
    latency: Latency | None = None
    # How late the generator itself was with what it sent: included in the latency.
    generator_late_p99_us: float | None = None
    # CPU time of the server for each request, what it does behind its replies among it.
    cpu_us: float | None = None
    # A time, a size or a share, in `unit`.
    value: float | None = None
    unit: str = ""
    # A median of the `ratios` of neighbouring rounds.
    ratio: float | None = None
    ratios: tuple[float, ...] = ()
    # (x, y) of a course over time, in minutes and in `unit`.
    course: tuple[tuple[float, float], ...] = ()
    note: str = ""


def skipped(part: str, why: str, allocations: int | None = None) -> Figure:
    """A figure that is missing, and why."""
    return Figure(part, "not measured", allocations=allocations, note=why)


def measured_figure(
    part: str,
    what: str,
    measured: Sequence[Measured],
    *,
    allocations: int | None = None,
    note: str = "",
) -> Figure:
    """Of rounds: the median rate and CPU time, and the latencies of all rounds together."""
    late_ns = [late for one in measured for late in one.load.late_ns]
    return Figure(
        part,
        what,
        allocations=allocations,
        per_second=median(one.load.per_second for one in measured),
        latency=latency_of(time_ns for one in measured for time_ns in one.load.latencies_ns),
        generator_late_p99_us=latency_of(late_ns).p99_us if late_ns else None,
        cpu_us=median(one.cpu_us for one in measured),
        note=note,
    )


def ratio_figure(
    part: str,
    what: str,
    ratios: Sequence[float],
    *,
    allocations: int | None = None,
    note: str = "",
) -> Figure:
    """The median of neighbouring rounds, so that a machine that has other things to do slows both."""
    lowest, highest = min(ratios), max(ratios)
    spread = f"{lowest:.2f} to {highest:.2f} in {len(ratios)} rounds"
    return Figure(
        part,
        what,
        allocations=allocations,
        ratio=median(ratios),
        ratios=tuple(ratios),
        note=f"{note}; {spread}" if note else spread,
    )
