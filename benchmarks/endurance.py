"""A long run of calls with creates beside them: whether the last minutes are as good as the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final

from benchmarks.calls import AppletRequests, CallSids
from benchmarks.cores import own_memory_bytes
from benchmarks.engine import CLIENTS, Engine, create_requests
from benchmarks.figures import Figure
from benchmarks.generator import Load, Poisson, Stream
from benchmarks.hops import applet_requests
from benchmarks.latency import latency_of
from benchmarks.progress import say
from benchmarks.world import LONG_A, LONG_B, TENANT

PART: Final = "endurance"
HOPS_PER_S: Final = 200
VERIFICATIONS_PER_S: Final = 20
WRITES_PER_S: Final = 20
WINDOWS: Final = 30
WARM_UP_S: Final = 5.0
MEMORY_LOOK_S: Final = 1.0
FIRST_STRANGER: Final = 70_000_000
RESERVE: Final = 1.3


async def endurance(engine: Engine, minutes: float) -> AsyncIterator[Figure]:
    """`minutes` of 200 hops, 20 right PINs and 20 creates a second."""
    seconds = minutes * 60
    streams = [
        Stream(applet_requests(engine, "passthru")(), Poisson(HOPS_PER_S), CLIENTS),
        Stream(_entries(engine, seconds), Poisson(VERIFICATIONS_PER_S, seed=1), CLIENTS),
        Stream(create_requests(engine, "long", LONG_A, LONG_B), Poisson(WRITES_PER_S, seed=2), CLIENTS),
    ]
    say(f"endurance: {minutes:g} minutes")
    memory: list[tuple[float, float]] = []
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch_memory(engine, memory))
        loads = await engine.run(streams, seconds, warm_up_s=WARM_UP_S)
        watching.cancel()
    for what, load in zip(("listed callers", "right PINs", "creates"), loads, strict=True):
        yield Figure(
            PART,
            f"{what}, over {minutes:g} min",
            allocations=engine.world.allocations,
            per_second=load.per_second,
            latency=load.latency,
        )
    yield _drift(engine, loads[0], seconds)
    megabytes = tuple((at_s / 60, size / 1e6) for at_s, size in memory)
    yield Figure(
        PART,
        "memory of the engine, last against first",
        allocations=engine.world.allocations,
        ratio=megabytes[-1][1] / megabytes[0][1],
        course=_thinned(megabytes),
        unit="MB",
        note=f"{megabytes[0][1]:.0f} MB, then {megabytes[-1][1]:.0f} MB; neither board nor PostgreSQL",
    )


def _drift(engine: Engine, load: Load, seconds: float) -> Figure:
    """p99.9 of listed callers in each of 30 windows."""
    windows: list[list[int]] = [[] for _ in range(WINDOWS)]
    for due_ns, latency_ns in zip(load.due_ns, load.latencies_ns, strict=True):
        place = int((due_ns / 1e9 - WARM_UP_S) / seconds * WINDOWS)
        windows[min(place, WINDOWS - 1)].append(latency_ns)
    course = tuple(
        (place * seconds / WINDOWS / 60, latency_of(window).p999_us / 1e3)
        for place, window in enumerate(windows)
        if window
    )
    return Figure(
        PART,
        "p99.9 of listed callers, last window against first",
        allocations=engine.world.allocations,
        ratio=course[-1][1] / course[0][1],
        course=course,
        unit="ms",
        note=f"{len(course)} windows; {course[0][1]:.2f} ms, then {course[-1][1]:.2f} ms",
    )


async def _watch_memory(engine: Engine, seen: list[tuple[float, float]]) -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    while True:
        at_s = loop.time() - started_s
        # What the first requests bring is no drift.
        if at_s >= WARM_UP_S:
            seen.append((at_s, own_memory_bytes(*engine.own_pids)))
        await asyncio.sleep(MEMORY_LOOK_S)


def _thinned(
    course: tuple[tuple[float, float], ...], points_max: int = 300
) -> tuple[tuple[float, float], ...]:
    step = max(len(course) // points_max, 1)
    return course[::step]


def _entries(engine: Engine, seconds: float) -> Iterator[bytes]:
    entry = AppletRequests(TENANT, engine.credentials.applet_key, "passthru")
    calls = int(VERIFICATIONS_PER_S * (seconds + WARM_UP_S) * RESERVE) + CLIENTS
    hops = engine.world.strangers_hops(calls, FIRST_STRANGER)
    return entry.requests(CallSids(), map(entry.tail, hops))
