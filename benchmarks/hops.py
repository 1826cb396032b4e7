"""Every applet hop over HTTP, on boards of every size: as fast as it goes, and at a rate that leaves room.

Every request has a CallSid of its own, and comes from an allocation that no cache knows to be next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count, cycle
from typing import Final

from benchmarks.calls import APPLETS, AppletRequests, CallSids, Hop
from benchmarks.engine import CLIENTS, Engine
from benchmarks.figures import Figure, measured_figure
from benchmarks.world import FIRST_VN, LISTED_A, STRANGERS, TENANT, World

PART: Final = "hops"
RATE_PER_S: Final = 1_000
WARM_UP_S: Final = 0.5

# Who asks: a Gather asks strangers for a PIN, everybody else is about to be connected.
WHO: Final = {
    "passthru": "a listed caller",
    "gather": "a stranger, who is asked",
    "connect": "a listed caller",
    "greeting": "a listed caller",
}

Requests = Callable[[], Iterator[bytes]]


async def hops(engine: Engine, seconds: float) -> AsyncIterator[Figure]:
    """Each applet for `seconds`, twice."""
    allocations = engine.world.allocations
    for applet in APPLETS:
        requests = applet_requests(engine, applet)
        fastest = await engine.measure(CLIENTS, requests(), seconds, warm_up_s=WARM_UP_S)
        yield measured_figure(
            PART, f"{applet}, {CLIENTS} connections", [fastest], allocations=allocations, note=WHO[applet]
        )
        paced = await engine.measure_at(RATE_PER_S, requests(), seconds, warm_up_s=WARM_UP_S)
        yield measured_figure(PART, f"{applet}, {RATE_PER_S:,}/s due", [paced], allocations=allocations)


def applet_requests(engine: Engine, applet: str) -> Requests:
    """Makes streams of requests that do not end; callers come round again, CallSids never do."""
    made = AppletRequests(TENANT, engine.credentials.applet_key, applet)
    call_sids = CallSids()
    if applet == "gather":
        # A stranger who came round again would have been asked before; there are enough numbers for all.
        strangers = count(STRANGERS)
        return lambda: made.requests(
            call_sids, (made.tail(hop) for hop in _strangers(engine.world, strangers))
        )
    tails = [made.tail(hop) for hop in engine.world.listed_hops()]
    return lambda: made.requests(call_sids, cycle(tails))


def _strangers(world: World, numbers: Iterator[int]) -> Iterator[Hop]:
    # A hundred million of them come round, which no run does.
    return (Hop(number, world.virtual_number(number)) for number in numbers)


def stand_in_requests() -> Iterator[bytes]:
    """Passthru requests for a server that reads none of them."""
    made = AppletRequests(TENANT, "k" * 43, "passthru")
    tails = [made.tail(Hop(LISTED_A + index, FIRST_VN)) for index in range(1_000)]
    return made.requests(CallSids(), cycle(tails))
