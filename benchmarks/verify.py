"""A stranger's PIN: the hop that takes it with a durable outcome, at rates that a node is to be good for.

Every call is another stranger's, and every PIN is right: each becomes a member, which is the most that one
hop can write. Each was asked before, as calls are; that hop is `gather` in `benchmarks.hops`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import islice
from math import ceil
from typing import Final

from benchmarks.calls import AppletRequests, CallSids
from benchmarks.constant import BODY
from benchmarks.engine import CLIENTS, Engine
from benchmarks.figures import Figure, measured_figure
from benchmarks.world import TENANT

PART: Final = "verify"
RATES_PER_S: Final = (200, 500)
WARM_UP_S: Final = 1.0
# Poisson arrivals of a long run exceed their mean by less than this.
RESERVE: Final = 1.3
# Strangers of this part; those of `hops` begin at the first of them.
FIRST_STRANGER: Final = 50_000_000


async def verify(engine: Engine, seconds: float) -> AsyncIterator[Figure]:
    """`seconds` at each rate, then as fast as it goes."""
    key = engine.credentials.applet_key
    prompt, entry = AppletRequests(TENANT, key, "gather"), AppletRequests(TENANT, key, "passthru")
    first = FIRST_STRANGER
    for rate in (*RATES_PER_S, None):
        # As fast as it goes is limited by how many were asked.
        calls = ceil((rate or RATES_PER_S[-1]) * (seconds + WARM_UP_S) * RESERVE) + CLIENTS
        hops = engine.world.strangers_hops(calls, first)
        first += calls
        call_sids = list(islice(CallSids(), calls))
        await engine.measure(CLIENTS, prompt.requests(call_sids, map(prompt.tail, hops)), None)
        entries = entry.requests(call_sids, map(entry.tail, hops))
        if rate is None:
            measured = await engine.measure(CLIENTS, entries, None, ending=BODY)
            what = f"a right PIN, {CLIENTS} connections"
        else:
            measured = await engine.measure_at(rate, entries, seconds, ending=BODY, warm_up_s=WARM_UP_S)
            what = f"a right PIN, {rate:,}/s due"
        yield measured_figure(
            PART,
            what,
            [measured],
            allocations=engine.world.allocations,
            note="durable, and the stranger a member, when answered",
        )
