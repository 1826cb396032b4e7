"""The passthru hop of a listed caller beside a bare aiohttp handler that answers a constant.

Both run on one core, one at a time, in turns; every request has a CallSid of its own, and comes from the
caller of the next of all allocations. What counts is the median of the ratios of neighbouring rounds: a
machine that has other things to do slows both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Final

from benchmarks.calls import AppletRequests, CallSids, Hop
from benchmarks.constant import BODY, constant_server
from benchmarks.cores import Cores, cpu_s
from benchmarks.engine import LISTED_A, Engine, Measured, virtual_number_of
from benchmarks.generator import Load, drive
from benchmarks.report import Figure, quantile

PART: Final = "passthru"
RATIO_AIM: Final = 0.70
CONNECTIONS: Final = (1, 32)
WARM_UP_S: Final = 0.5

Requests = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Rounds:
    """What each side did in each round, in the order of the rounds."""

    bare: list[Measured]
    engine: list[Measured]


async def passthru(engine: Engine, cores: Cores, rounds: int, seconds: float) -> AsyncIterator[Figure]:
    """`rounds` of `seconds` for each side."""
    requests = _requests(engine)
    async with constant_server("raw", cores) as raw:
        for connections in CONNECTIONS:
            load = await drive(raw.address, connections, requests(), seconds)
            yield _figure(
                f"generator's own limit, {_counted(connections)}", [Measured(load, 0.0)], "raw protocol"
            )
    for connections in CONNECTIONS:
        run = await _rounds(engine, cores, connections, requests, rounds, seconds)
        yield _figure(f"bare aiohttp, {_counted(connections)}", run.bare)
        yield _figure(f"listed caller, {_counted(connections)}", run.engine)
        ratios = sorted(
            ours.load.per_second / bare.load.per_second
            for ours, bare in zip(run.engine, run.bare, strict=True)
        )
        yield Figure(
            PART,
            f"against bare, {_counted(connections)}",
            ratio=median(ratios),
            ratios=tuple(ratios),
            note=f"{ratios[0]:.2f} to {ratios[-1]:.2f} in {rounds} rounds; aim {RATIO_AIM:.2f}",
        )


async def _rounds(
    engine: Engine, cores: Cores, connections: int, requests: Requests, rounds: int, seconds: float
) -> Rounds:
    run = Rounds([], [])
    async with constant_server("bare", cores) as bare:
        await drive(bare.address, connections, requests(), WARM_UP_S)
        await engine.measure(connections, requests(), WARM_UP_S, ending=BODY)
        for _ in range(rounds):
            before_s = cpu_s(bare.pid)
            load = await drive(bare.address, connections, requests(), seconds, ending=BODY)
            used_us = (cpu_s(bare.pid) - before_s) / load.requests * 1e6
            run.bare.append(Measured(load, used_us))
            # It waits until the engine has written what it owes, so that no round pays for another.
            run.engine.append(await engine.measure(connections, requests(), seconds, ending=BODY))
    return run


def _requests(engine: Engine) -> Requests:
    """Makes a stream of requests that does not end; callers come round again, CallSids never do."""
    applet = AppletRequests(engine.credentials.tenant_id, engine.credentials.applet_key, "passthru")
    tails = [applet.tail(Hop(LISTED_A + i, virtual_number_of(i))) for i in range(engine.allocations)]
    call_sids = CallSids()
    return lambda: applet.requests(call_sids, cycle(tails))


def _figure(what: str, measured: list[Measured], note: str = "") -> Figure:
    """The median round in each respect."""

    def middle(of: Callable[[Load], float]) -> float:
        return median(of(one.load) for one in measured)

    return Figure(
        PART,
        what,
        per_second=middle(lambda load: load.per_second),
        p50_us=middle(lambda load: quantile(load.latencies_ns, 0.5)) / 1e3,
        p99_us=middle(lambda load: quantile(load.latencies_ns, 0.99)) / 1e3,
        p999_us=middle(lambda load: quantile(load.latencies_ns, 0.999)) / 1e3,
        cpu_us=median(one.cpu_us for one in measured) or None,
        note=note,
    )


def _counted(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"
