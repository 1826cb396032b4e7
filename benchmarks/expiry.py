"""A wave: many allocations that end in the same second, with calls of others under way.

Hops come at a steady rate, as calls do, and not one on the heels of another: a caller who is kept waiting by
the wave shall not keep the next one from being measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import aiohttp

from benchmarks.engine import Engine, api_request, order
from benchmarks.figures import Figure
from benchmarks.generator import Evenly, Stream, UnexpectedReply, drive, run
from benchmarks.hops import applet_requests
from benchmarks.latency import latency_of
from benchmarks.world import WAVE_A, WAVE_B

PART: Final = "expiry"
BULK: Final = 500
HOPS_PER_S: Final = 200
CONNECTIONS: Final = 20
# Every allocation is made before the wave begins: what four clients make in a second, with a reserve.
MADE_PER_S: Final = 500
WATCH_S: Final = 1.0
# Of the hops during the wave, whose end is looked for in between; its length is known to so much.
SLICE_S: Final = 1.0
GIVE_UP_S: Final = 600.0


async def expiry(engine: Engine, wave: int, idle_s: float) -> AsyncIterator[Figure]:
    ends_at_s = int(time.time()) + 10 + wave // MADE_PER_S  # noqa: TID251 - durations are in real time.
    await drive(engine.address, 4, _creates(engine, wave, ends_at_s), None)
    await engine.settle()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(engine, -1, asyncio.Event()))
        idle = await _hops(engine, idle_s)
        watching.cancel()
    yield _figure(engine, "hops, idle", idle)
    left = await _live(engine)
    rest_s = ends_at_s - time.time()  # noqa: TID251 - as above.
    if rest_s < 0:
        yield Figure(PART, "the wave", note=f"began {-rest_s:.0f} s before the hops: too slow to be measured")
        return
    await asyncio.sleep(rest_s)
    started_s = time.perf_counter()
    over = asyncio.Event()
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_watch(engine, left - wave, over))
        during = await _hops(engine, SLICE_S, over)
        took_s = time.perf_counter() - started_s
    ratio = latency_of(during).p99_us / latency_of(idle).p99_us
    yield _figure(engine, "hops, during the wave", during, ratio)
    yield Figure(
        PART,
        f"{wave:,} allocations that end in one second",
        per_second=wave / took_s,
        note=f"released, told to the board and off it after {took_s:.1f} s",
    )


def _creates(engine: Engine, wave: int, ends_at_s: int) -> Iterator[bytes]:
    world = engine.world
    for start in range(0, wave, BULK):
        left_s = ends_at_s - int(time.time())  # noqa: TID251 - durations are in real time.
        orders = [
            order(
                f"wave-{n}",
                WAVE_A + n,
                WAVE_B + n,
                world.virtual_number(n),
                pin=f"{7_000_000 + n // world.virtual_numbers}",
                duration=f"{left_s}s",
            )
            for n in range(start, min(start + BULK, wave))
        ]
        yield api_request(engine.credentials, "POST", "/greenpin/bulk", {"greenpins": orders})


async def _hops(engine: Engine, seconds: float, until: asyncio.Event | None = None) -> list[int]:
    """Latencies in ns of hops of listed callers, in slices of `seconds`, one or as many as it takes."""
    requests = applet_requests(engine, "passthru")()
    latencies_ns: list[int] = []
    while True:
        [load] = await run(engine.address, [Stream(requests, Evenly(HOPS_PER_S), CONNECTIONS)], seconds)
        latencies_ns += load.latencies_ns
        if until is None or until.is_set():
            return latencies_ns


async def _watch(engine: Engine, at_the_end: int, over: asyncio.Event) -> None:
    """Ask now and then, as whoever watches an engine does."""
    while await _live(engine) > at_the_end:  # noqa: ASYNC110 - of another process.
        await asyncio.sleep(WATCH_S)
    over.set()


async def _live(engine: Engine) -> int:
    """Allocations on the board."""
    host, port = engine.address
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith("cordboard_allocations_live "):
                return int(float(line.split()[1]))
    raise UnexpectedReply("no cordboard_allocations_live")


def _figure(engine: Engine, what: str, latencies_ns: list[int], ratio: float | None = None) -> Figure:
    return Figure(
        PART,
        what,
        allocations=engine.world.allocations,
        latency=latency_of(latencies_ns),
        ratio=ratio,
        note=f"passthru of listed callers, {HOPS_PER_S} a second" + (", p99 against idle" if ratio else ""),
    )
