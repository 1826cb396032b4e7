"""Latencies as they are reported: exact quantiles and a histogram, of every request and no sample."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

# Ten steps for each factor of ten are 26 % each: as fine as a plot can show, and 90 for 1 µs to 1,000 s.
STEPS_A_DECADE: Final = 10
DECADES: Final = 9
EDGES_US: Final = tuple(10 ** (step / STEPS_A_DECADE) for step in range(DECADES * STEPS_A_DECADE + 1))


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of times, in µs."""

    requests: int
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    # (upper edge in µs, how many up to there and above the edge before), without the empty ones.
    histogram: tuple[tuple[float, int], ...]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least of the values that `share` of them do not exceed, by the nearest rank.

    Of 100 values the 0.99 quantile is the 99th. Nothing is interpolated: each answer is a time that was
    measured. `ordered` is sorted and not empty.
    """
    assert ordered, "there is no quantile of nothing"
    assert 0 < share <= 1
    # 0.99 × 100 is 99.00000000000001 to a computer, and its ceiling would be the hundredth.
    return ordered[ceil(round(len(ordered) * share, 9)) - 1]


def latency_of(times_ns: Iterable[int]) -> Latency:
    """Of times in ns, in any order, at least one."""
    ordered = sorted(times_ns)
    return Latency(
        requests=len(ordered),
        p50_us=quantile(ordered, 0.5) / 1e3,
        p90_us=quantile(ordered, 0.9) / 1e3,
        p99_us=quantile(ordered, 0.99) / 1e3,
        p999_us=quantile(ordered, 0.999) / 1e3,
        max_us=ordered[-1] / 1e3,
        histogram=_histogram(ordered),
    )


def _histogram(ordered: Sequence[int]) -> tuple[tuple[float, int], ...]:
    last = len(EDGES_US) - 1
    counts = Counter(min(bisect_left(EDGES_US, time_ns / 1e3), last) for time_ns in ordered)
    return tuple((EDGES_US[place], counts[place]) for place in sorted(counts))
