from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import chain, pairwise, repeat

import pytest

from benchmarks.generator import (
    AtOnce,
    Evenly,
    Poisson,
    Stream,
    UnexpectedReply,
    drive,
    pace,
    run,
)
from tests.benchmarks.stalling import STALL_S, Connection, Stalls

Address = tuple[str, int]


@pytest.fixture
def stalls() -> Stalls:
    return Stalls()


@pytest.fixture
async def address(stalls: Stalls) -> AsyncIterator[Address]:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(stalls), "127.0.0.1")
    host, port = server.sockets[0].getsockname()[:2]
    yield host, port
    server.close()


def asking(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def plain() -> Iterator[bytes]:
    return repeat(asking("plain"))


async def test_a_stall_is_in_the_latency_of_every_request_that_was_due_meanwhile(address: Address) -> None:
    """100 requests a second over one connection; the 11th, due at 0.1 s, stalls the server for 0.4 s."""
    requests = chain(repeat(asking("plain"), 10), [asking("stall")], plain())
    [load] = await run(address, [Stream(requests, Evenly(100), connections=1)], 1.0)
    assert load.requests == 100
    by_due = dict(zip(load.due_ns, load.latencies_ns, strict=True))
    # What was due meanwhile had to wait until 0.5 s at least, whether it could be sent or not.
    waiting = {due_ns: latency_ns for due_ns, latency_ns in by_due.items() if 0.1e9 <= due_ns < 0.5e9}
    assert len(waiting) == 40
    assert all(due_ns + latency_ns >= (0.1 + STALL_S) * 1e9 for due_ns, latency_ns in waiting.items())
    # A loop that counts from the sending would know one slow request, and not a p90 of this length.
    assert load.latency.p90_us >= 200_000


async def test_what_was_due_in_the_warm_up_is_not_counted(address: Address) -> None:
    [load] = await run(address, [Stream(plain(), Evenly(1_000), 4)], 0.1, warm_up_s=0.1)
    assert load.requests == 100
    assert min(load.due_ns) == 0.1e9
    assert load.per_second <= 1_000


async def test_arrivals_of_chance_come_at_their_rate_and_the_same_each_time(address: Address) -> None:
    first = await pace(address, 4, plain(), 2_000, 0.2)
    again = await pace(address, 4, plain(), 2_000, 0.2)
    assert sorted(first.due_ns) == sorted(again.due_ns)
    # 400 are expected, with a deviation of 20.
    assert 300 < first.requests < 500
    assert len({after - before for before, after in pairwise(sorted(first.due_ns))}) > 100


async def test_a_closed_loop_ends_with_its_requests(address: Address) -> None:
    replies: list[bytes] = []
    load = await drive(address, 3, repeat(asking("plain"), 50), None, ending=b"ok", replies=replies)
    assert load.requests == 50
    assert len(replies) == 50
    assert len(load.late_ns) == 0


async def test_a_closed_loop_leaves_alone_what_it_has_no_time_for(address: Address) -> None:
    requests = (asking("plain") for _ in range(10**9))
    load = await drive(address, 2, requests, 0.05)
    assert load.requests > 0
    assert next(requests) == asking("plain")


async def test_a_closed_loop_counts_one_request_however_little_time_it_has(address: Address) -> None:
    load = await drive(address, 1, plain(), 0.0)
    assert load.requests == 1


async def test_streams_have_their_own_rates(address: Address) -> None:
    streams = [Stream(plain(), Evenly(200), 2), Stream(plain(), Evenly(50), 2)]
    loads = await run(address, streams, 0.2)
    assert [load.requests for load in loads] == [40, 10]


async def test_a_large_request_is_sent_whole(address: Address) -> None:
    """More than a socket takes at once, so that the rest has to wait for room."""
    body = b"x" * 20_000_000
    request = b"POST /whole HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    [load] = await run(address, [Stream(iter([request] * 2), AtOnce(), 1)], None)
    assert load.requests == 2


async def test_a_wrong_reply_ends_the_run(address: Address) -> None:
    with pytest.raises(UnexpectedReply, match="404"):
        await pace(address, 2, repeat(asking("missing")), 100, 0.1)
    with pytest.raises(UnexpectedReply, match="ok"):
        await pace(address, 2, plain(), 100, 0.1, ending=b"other")


async def test_a_connection_that_is_closed_under_a_request_ends_the_run(address: Address) -> None:
    with pytest.raises(ConnectionResetError, match="owed a reply"):
        await drive(address, 1, repeat(asking("close")), 0.1)


async def test_whoever_cancels_a_run_does_not_wait_for_its_end(address: Address, stalls: Stalls) -> None:
    running = asyncio.ensure_future(run(address, [Stream(plain(), Poisson(10), 1)], 3_600))
    async with asyncio.timeout(30):
        await stalls.connected.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
