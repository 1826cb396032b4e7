"""Call hops while 500 allocations a second are written, beside the same hops on an idle engine, in turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from benchmarks.engine import CLIENTS, Engine, create_requests
from benchmarks.figures import Figure, ratio_figure
from benchmarks.generator import Load, Poisson, Stream
from benchmarks.hops import applet_requests
from benchmarks.latency import latency_of
from benchmarks.world import WRITTEN_A, WRITTEN_B

PART: Final = "writes"
HOPS_PER_S: Final = 1_000
WRITES_PER_S: Final = 500
WARM_UP_S: Final = 0.5


async def writes(engine: Engine, rounds: int, seconds: float) -> AsyncIterator[Figure]:
    """`rounds` of `seconds`, each once idle and once under writes."""
    allocations = engine.world.allocations
    requests = applet_requests(engine, "passthru")
    creates = create_requests(engine, "written", WRITTEN_A, WRITTEN_B)
    idle: list[Load] = []
    busy: list[Load] = []
    written: list[Load] = []
    for _ in range(rounds):
        hops = Stream(requests(), Poisson(HOPS_PER_S), CLIENTS)
        idle += await engine.run([hops], seconds, warm_up_s=WARM_UP_S)
        hops = Stream(requests(), Poisson(HOPS_PER_S), CLIENTS)
        writing = Stream(creates, Poisson(WRITES_PER_S, seed=1), CLIENTS)
        beside, made = await engine.run([hops, writing], seconds, warm_up_s=WARM_UP_S)
        busy.append(beside)
        written.append(made)
    for what, loads in (
        (f"passthru, {HOPS_PER_S:,}/s due, idle", idle),
        (f"passthru, {HOPS_PER_S:,}/s due, under writes", busy),
        (f"the creates, {WRITES_PER_S:,}/s due", written),
    ):
        yield Figure(
            PART,
            what,
            allocations=allocations,
            per_second=sum(load.requests for load in loads) / sum(load.elapsed_s for load in loads),
            latency=latency_of(time_ns for load in loads for time_ns in load.latencies_ns),
        )
    yield ratio_figure(
        PART,
        "p99 under writes against idle",
        [load.latency.p99_us / quiet.latency.p99_us for load, quiet in zip(busy, idle, strict=True)],
        allocations=allocations,
    )
