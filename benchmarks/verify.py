"""A stranger's PIN: the hop that asks for it, and the hop that takes it with a durable outcome.

Every call is another stranger's, and every PIN is right: each becomes a member, which is the most that one
hop can write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import cycle, islice
from typing import Final

from benchmarks.calls import AppletRequests, CallSids, Hop
from benchmarks.constant import BODY
from benchmarks.engine import CLIENTS, STRANGERS, Engine, Measured, pin_of, virtual_number_of
from benchmarks.report import Figure, quantile

PART: Final = "verify"
# More than anybody is asked in the time of one run.
CALLS_MAX: Final = 100_000
# What a node is promised to be good for, in an open loop: callers do not wait for each other.
HOPS_PER_S: Final = 200


async def verify(engine: Engine, seconds: float) -> AsyncIterator[Figure]:
    tenant, key = engine.credentials.tenant_id, engine.credentials.applet_key
    prompt, entry = AppletRequests(tenant, key, "gather"), AppletRequests(tenant, key, "passthru")
    # Strangers come round to the same allocations, each with a call and a number of its own.
    allocations = range(engine.allocations)
    hops = [
        Hop(STRANGERS + i, virtual_number_of(index), pin_of(index))
        for i, index in enumerate(islice(cycle(allocations), CALLS_MAX))
    ]
    call_sids = list(islice(CallSids(), len(hops)))

    asked = await engine.measure(CLIENTS, prompt.requests(call_sids, map(prompt.tail, hops)), seconds)
    yield _figure("a stranger is asked", asked, "gather, the first hop of a call")

    # Those who were asked, in the order in which they were asked.
    known = asked.load.requests
    entries = entry.requests(call_sids[:known], map(entry.tail, hops))
    paced = await engine.measure_at(HOPS_PER_S, entries, 2 * seconds, ending=BODY)
    note = "passthru, its outcome durable and the stranger a member when answered"
    yield _figure("the PIN is right", paced, note, f"{HOPS_PER_S} hops/s")
    took = await engine.measure(CLIENTS, entries, seconds, ending=BODY)
    yield _figure("the PIN is right", took, note)


def _figure(what: str, measured: Measured, note: str, load: str = f"{CLIENTS} clients") -> Figure:
    latencies_ns = measured.load.latencies_ns
    return Figure(
        PART,
        f"{what}, {load}",
        per_second=measured.load.per_second,
        p50_us=quantile(latencies_ns, 0.5) / 1e3,
        p99_us=quantile(latencies_ns, 0.99) / 1e3,
        p999_us=quantile(latencies_ns, 0.999) / 1e3,
        cpu_us=measured.cpu_us,
        note=note,
    )
