"""Creates over HTTP: 32 clients that each want an allocation, a PIN drawn for it, and an answer at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import Final

from benchmarks.engine import CLIENTS, LATER_A, LATER_B, Engine, create_request, virtual_number_of
from benchmarks.report import Figure, quantile

PART: Final = "creates"
WARM_UP_S: Final = 1.0


async def creates(engine: Engine, seconds: float) -> AsyncIterator[Figure]:
    requests = (
        create_request(engine.credentials, f"later-{i}", LATER_A + i, LATER_B + i, virtual_number_of(i), None)
        for i in count()
    )
    await engine.measure(CLIENTS, requests, WARM_UP_S)
    measured = await engine.measure(CLIENTS, requests, seconds)
    latencies_ns = measured.load.latencies_ns
    yield Figure(
        PART,
        f"{CLIENTS} clients",
        per_second=measured.load.per_second,
        p50_us=quantile(latencies_ns, 0.5) / 1e3,
        p99_us=quantile(latencies_ns, 0.99) / 1e3,
        p999_us=quantile(latencies_ns, 0.999) / 1e3,
        cpu_us=measured.cpu_us,
        note=f"{measured.load.requests:,} allocations, durable and routed by when answered",
    )
