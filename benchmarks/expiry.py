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
import orjson

from benchmarks.calls import AppletRequests, CallSids, Hop
from benchmarks.engine import LISTED_A, Engine, virtual_number_of
from benchmarks.generator import OK, UnexpectedReply, drive
from benchmarks.report import Figure, quantile
from cordboard.simulator.wire import basic

PART: Final = "expiry"
BULK: Final = 500
WAVE_A, WAVE_B = 76_0000_0000, 75_0000_0000
HOPS_PER_S: Final = 200
CONNECTIONS: Final = 20
# Every allocation is made before the wave begins: what four clients make in a second, with a reserve.
MADE_PER_S: Final = 500
WATCH_S: Final = 1.0
GIVE_UP_S: Final = 600.0


async def expiry(engine: Engine, wave: int, idle_s: float) -> AsyncIterator[Figure]:
    ends_at_s = int(time.time()) + 10 + wave // MADE_PER_S  # noqa: TID251 - durations are in real time.
    await drive(engine.address, 4, _creates(engine, wave, ends_at_s), None)
    await engine.settle()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(engine, -1, asyncio.Event()))
        idle = await _hops(engine, idle_s)
        watching.cancel()
    yield _figure("hops, idle", idle)
    left = await _live(engine)
    rest_s = ends_at_s - time.time()  # noqa: TID251 - as above.
    if rest_s < 0:
        yield Figure(PART, "the wave", note=f"began {-rest_s:.0f} s before the hops: too slow to be measured")
        return
    await asyncio.sleep(rest_s)
    started_s = time.perf_counter()
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_watch(engine, left - wave, over))
        during = await _hops(engine, None, over)
        took_s = time.perf_counter() - started_s
    yield _figure("hops, during the wave", during, quantile(during, 0.99) / quantile(idle, 0.99))
    yield Figure(
        PART,
        f"{wave:,} allocations that end in one second",
        per_second=wave / took_s,
        note=f"released, told to the board and off it after {took_s:.1f} s",
    )


def _creates(engine: Engine, wave: int, ends_at_s: int) -> Iterator[bytes]:
    user = basic(engine.credentials.tenant_id, engine.credentials.api_token)
    for start in range(0, wave, BULK):
        left_s = ends_at_s - int(time.time())  # noqa: TID251 - durations are in real time.
        orders = [_order(n, left_s) for n in range(start, min(start + BULK, wave))]
        body = orjson.dumps({"greenpins": orders})
        head = (
            f"POST /v1/tenants/{engine.credentials.tenant_id}/greenpin/bulk HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: {user}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        yield head.encode() + body


def _order(n: int, left_s: int) -> dict[str, object]:
    vns = [f"+91{virtual_number_of(n)}"]
    return {
        "transaction_id": f"wave-{n}",
        "a": {"vns": vns, "numbers": [f"+91{WAVE_A + n}"]},
        "b": {"vns": vns, "numbers": [f"+91{WAVE_B + n}"], "pin": f"{n // 20:06d}"},
        "usage": "twoway",
        "deallocation_policy": {"duration": f"{left_s}s"},
    }


async def _hops(engine: Engine, seconds: float | None, until: asyncio.Event | None = None) -> list[int]:
    """Latencies in ns of hops of listed callers, sorted."""
    applet = AppletRequests(engine.credentials.tenant_id, engine.credentials.applet_key, "passthru")
    call_sids = CallSids()
    tails = [applet.tail(Hop(LISTED_A + n, virtual_number_of(n))) for n in range(engine.allocations)]
    latencies_ns: list[int] = []
    loop = asyncio.get_running_loop()
    ends_at_s = loop.time() + (GIVE_UP_S if seconds is None else seconds)

    async def client(place: int) -> None:
        reader, writer = await asyncio.open_connection(*engine.address)
        due_s = loop.time() + place / HOPS_PER_S
        n = place
        while due_s < ends_at_s and not (until is not None and until.is_set()):
            await asyncio.sleep(due_s - loop.time())
            [request] = applet.requests([next(call_sids)], [tails[n % len(tails)]])
            sent_ns = time.perf_counter_ns()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(20)
            latencies_ns.append(time.perf_counter_ns() - sent_ns)
            if not head.startswith(OK):
                raise UnexpectedReply(head.decode("latin-1"))
            due_s += CONNECTIONS / HOPS_PER_S
            n += CONNECTIONS
        writer.close()

    await asyncio.gather(*map(client, range(CONNECTIONS)))
    return sorted(latencies_ns)


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


def _figure(what: str, latencies_ns: list[int], ratio: float | None = None) -> Figure:
    return Figure(
        PART,
        what,
        p50_us=quantile(latencies_ns, 0.5) / 1e3,
        p99_us=quantile(latencies_ns, 0.99) / 1e3,
        p999_us=quantile(latencies_ns, 0.999) / 1e3,
        ratio=ratio,
        note=f"passthru of listed callers, {HOPS_PER_S} a second" + (", p99 against idle" if ratio else ""),
    )
