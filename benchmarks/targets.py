"""What is aimed at, which figure decides it, and what stands in the way where it is missed.

The last is prose and stands in `limits.toml`, a sentence or two for each target that a run has missed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, assert_never

from benchmarks import api, beside, decide, floor, hops, starts, verify, workers, writes
from benchmarks.figures import Figure
from benchmarks.latency import Latency

LIMITS: Final = Path(__file__).with_name("limits.toml")


class Outcome(Enum):
    MET = "met"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


class Bound(Enum):
    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True, slots=True)
class Target:
    """`value_of` takes its value out of a run's figures; None where the run did not measure it."""

    id: str
    what: str
    bound: Bound
    aim: float
    unit: str
    value_of: Callable[[Sequence[Figure]], float | None]


@dataclass(frozen=True, slots=True)
class Result:
    target: Target
    value: float | None
    # What the limit is, for whoever asks why it was missed.
    limit: str

    @property
    def outcome(self) -> Outcome:
        if self.value is None:
            return Outcome.NOT_MEASURED
        match self.target.bound:
            case Bound.AT_LEAST:
                is_met = self.value >= self.target.aim
            case Bound.AT_MOST:
                is_met = self.value <= self.target.aim
            case unmatched:
                assert_never(unmatched)
        return Outcome.MET if is_met else Outcome.MISSED


class BadLimits(Exception):
    """`limits.toml` names a target that does not exist, or says nothing of one that it names."""


def read_limits(path: Path = LIMITS) -> dict[str, str]:
    """Target id → what the limit is. Raises BadLimits, OSError."""
    limits = tomllib.loads(path.read_text(encoding="utf-8"))
    known = {target.id for target in TARGETS}
    for id, text in limits.items():
        if id not in known:
            raise BadLimits(f"{path.name}: no target is called {id!r}")
        if not isinstance(text, str) or not text.strip():
            raise BadLimits(f"{path.name}: {id!r} is not a text")
    return limits


def results(figures: Iterable[Figure], limits: Mapping[str, str]) -> list[Result]:
    known = list(figures)
    return [Result(target, target.value_of(known), limits.get(target.id, "")) for target in TARGETS]


# ── finding figures ──────────────────────────────────────────────────────────


def _find(figures: Sequence[Figure], part: str, what: str, allocations: int | None = None) -> Figure | None:
    """Of several sizes the largest, unless one is asked for."""
    found = [
        figure
        for figure in figures
        if (figure.part, figure.what) == (part, what)
        and (allocations is None or figure.allocations == allocations)
    ]
    return max(found, key=lambda figure: figure.allocations or 0, default=None)


def _ratio(part: str, what: str) -> Callable[[Sequence[Figure]], float | None]:
    def value_of(figures: Sequence[Figure]) -> float | None:
        found = _find(figures, part, what)
        return None if found is None else found.ratio

    return value_of


def _value(
    part: str, what: str, allocations: int | None = None
) -> Callable[[Sequence[Figure]], float | None]:
    def value_of(figures: Sequence[Figure]) -> float | None:
        found = _find(figures, part, what, allocations)
        return None if found is None else found.value

    return value_of


def _rate(part: str, what: str) -> Callable[[Sequence[Figure]], float | None]:
    def value_of(figures: Sequence[Figure]) -> float | None:
        found = _find(figures, part, what)
        return None if found is None else found.per_second

    return value_of


def _decided_us(figures: Sequence[Figure], allocations: int) -> float | None:
    found = _find(figures, decide.PART, "listed", allocations)
    return None if found is None or found.latency is None else found.latency.p50_us


def _growth(figures: Sequence[Figure]) -> float | None:
    small, large = _decided_us(figures, 1_000), _decided_us(figures, 10_000_000)
    return None if small is None or large is None else large / small


def _verify_ms(us_of: Callable[[Latency], float]) -> Callable[[Sequence[Figure]], float | None]:
    def value_of(figures: Sequence[Figure]) -> float | None:
        found = _find(figures, verify.PART, "a right PIN, 500/s due")
        return None if found is None or found.latency is None else us_of(found.latency) / 1e3

    return value_of


def _beside(hop: str) -> list[Target]:
    bare, sql = beside.BARE, beside.FASTAPI_SQL
    wanted = (
        ("bare-rate", "requests/s against", bare, Bound.AT_LEAST, 0.80),
        ("bare-p99", "p99 at half load against", bare, Bound.AT_MOST, 1.3),
        ("sql-rate", "requests/s against", sql, Bound.AT_LEAST, 8.0),
        ("sql-p99", "p99 at half load against", sql, Bound.AT_MOST, 0.25),
    )
    return [
        Target(
            f"{hop}-{id}",
            f"{hop} hop, {what} {peer}",
            bound,
            aim,
            "×",
            _ratio(beside.PART, f"{hop}: {what.replace(' at half load', '')} {peer}"),
        )
        for id, what, peer, bound, aim in wanted
    ]


def _generator_share(figures: Sequence[Figure]) -> float | None:
    """The highest rate of the harness against the highest that any server here has reached."""
    ceiling = _find(figures, floor.PART, floor.FASTEST)
    reached = [figure.per_second or 0.0 for figure in figures if figure.part in {hops.PART, beside.PART}]
    if ceiling is None or ceiling.per_second is None or not reached:
        return None
    return ceiling.per_second / max(reached)


TARGETS: Final = (
    # Not of the engine: a harness that is no faster than its servers measures itself.
    Target(
        "generator",
        "the generator's highest rate against the fastest server measured",
        Bound.AT_LEAST,
        1.2,
        "×",
        _generator_share,
    ),
    *(target for hop in beside.HOPS for target in _beside(hop)),
    Target(
        "decide-1m",
        "a decision, listed caller, median at 1,000,000",
        Bound.AT_MOST,
        4.0,
        "µs",
        lambda figures: _decided_us(figures, 1_000_000),
    ),
    Target(
        "decide-10m",
        "the same at 10,000,000",
        Bound.AT_MOST,
        6.0,
        "µs",
        lambda figures: _decided_us(figures, 10_000_000),
    ),
    Target("decide-growth", "the same, 10,000,000 against 1,000", Bound.AT_MOST, 2.5, "×", _growth),
    Target(
        "verify-p50",
        "verify hop, durable, 500/s: p50",
        Bound.AT_MOST,
        1.0,
        "ms",
        _verify_ms(lambda latency: latency.p50_us),
    ),
    Target(
        "verify-p99",
        "verify hop, durable, 500/s: p99",
        Bound.AT_MOST,
        6.0,
        "ms",
        _verify_ms(lambda latency: latency.p99_us),
    ),
    Target(
        "writes-p99",
        "hops while 500 allocations/s are written: p99 against idle",
        Bound.AT_MOST,
        1.5,
        "×",
        _ratio(writes.PART, "p99 under writes against idle"),
    ),
    Target(
        "create",
        "create over HTTP, 32 clients",
        Bound.AT_LEAST,
        2_500,
        "/s",
        _rate(api.PART, "create, 32 clients"),
    ),
    Target("bulk", "bulk create", Bound.AT_LEAST, 10_000, "items/s", _value(api.PART, "bulk create, items")),
    Target(
        "board-size",
        "board, an allocation, at 10,000,000",
        Bound.AT_MOST,
        500,
        "B",
        _value(starts.SIZE_PART, "board, an allocation", 10_000_000),
    ),
    Target(
        "restart",
        "process restart, 10,000,000 on the board",
        Bound.AT_MOST,
        1.0,
        "s",
        _value(starts.PART, "process restart, board kept", 10_000_000),
    ),
    Target(
        "cold-start",
        "cold start from PostgreSQL, 10,000,000",
        Bound.AT_MOST,
        240,
        "s",
        _value(starts.PART, "cold start from PostgreSQL", 10_000_000),
    ),
    Target(
        "workers",
        "2 workers on 2 cores against one, generator's share taken out",
        Bound.AT_LEAST,
        1.7,
        "×",
        _ratio(workers.PART, "2 workers against 1, generator's share taken out"),
    ),
)
