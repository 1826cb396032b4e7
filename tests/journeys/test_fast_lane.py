"""The fast lane answers as aiohttp would, and leaves to it what is not plain (web/fast_lane.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import orjson
import pytest

from cordboard.simulator.platform import random_call_sid

from .world import PIN, Tenant, a_person, national

# A header that means something, and changes nothing of what is said.
TO_AIOHTTP = "Connection: close\r\n"


def plain(
    tenant: Tenant, more_headers: str | None = None, applet: str = "passthru", /, **changed: str | None
) -> bytes:
    """A hop as a platform sends it; `changed` parameters of None are left out."""
    query: dict[str, str | None] = {
        "key": tenant.credentials.applet_key,
        "CallSid": random_call_sid(),
        "CallFrom": national(a_person()),
        "CallTo": national(tenant.line),
        "Direction": "incoming",
        "CallType": "call-attempt",
        **changed,
    }
    sent = urlencode({name: value for name, value in query.items() if value is not None})
    return (
        f"GET /v1/tenants/{tenant.id}/exotel/{applet}?{sent} HTTP/1.1\r\n"
        f"Host: cordboard\r\nUser-Agent: a platform\r\nConnection: keep-alive\r\n{more_headers or ''}\r\n"
    ).encode()


def by_aiohttp(request: bytes) -> bytes:
    return request.replace(b"Connection: keep-alive\r\n", TO_AIOHTTP.encode())


class Replies:
    """The replies of one connection, in their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def next(self) -> tuple[int, str]:
        """Status and body."""
        status, _, body = await self.next_whole()
        return status, body

    async def next_whole(self) -> tuple[int, str, str]:
        """Status, content type and body."""
        status, headers, body = await self._next()
        return status, headers["content-type"], body

    async def next_headers(self) -> Mapping[str, str]:
        """By their names in small letters."""
        return (await self._next())[1]

    async def _next(self) -> tuple[int, Mapping[str, str], str]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        fields = (line.partition(": ") for line in head.split("\r\n")[1:])
        headers = {name.lower(): value for name, _, value in fields}
        body = await self._reader.readexactly(int(headers["content-length"]))
        return int(head.split()[1]), headers, body.decode()

    async def rest(self) -> bytes:
        """Everything until the engine closes the connection."""
        return await self._reader.read()

    async def ask(self, request: bytes) -> tuple[int, str]:
        self.writer.write(request)
        return await self.next()


@asynccontextmanager
async def connected(tenant: Tenant) -> AsyncIterator[Replies]:
    host, port = tenant.client.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Replies(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"switch": "1"},
        {"CallSid": None},
        {"CallSid": ""},
        {"CallFrom": "anonymous"},
        {"CallFrom": None},
        {"CallTo": "08099999999"},
        {"CallTo": "nobody"},
        {"Direction": "outbound-dial"},
        {"Direction": None},
        {"CallType": None},
        {"CallType": "no-such-type"},
        {"CallType": "completed"},
        {"key": "wrong"},
        {"key": None},
        {"digits": '"4821"'},
        {"digits": "ignore"},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "stranger"])
async def test_both_ways_answer_alike(
    tenant: Tenant, changed: dict[str, str | None], is_listed: bool
) -> None:
    courier, customer = a_person(), a_person()
    await tenant.allocate([courier], [customer])
    caller: dict[str, str | None] = {"CallFrom": national(courier)} if is_listed else {}
    answers = []
    # Two calls of one kind, so that neither is answered by what the other left behind.
    for send in (bytes, by_aiohttp):
        async with connected(tenant) as replies:
            replies.writer.write(send(plain(tenant, None, **{**caller, **changed})))
            answers.append(await replies.next_whole())
    assert answers[0] == answers[1]


@pytest.mark.parametrize("headers", ["", "Exotel-Version: 1.0\r\n", "exotel-version: 1.0\r\n"], ids=str)
@pytest.mark.parametrize("digits", [None, "4821", PIN])
@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "stranger"])
@pytest.mark.parametrize("applet", ["connect", "gather", "greeting"])
async def test_both_ways_of_every_applet_answer_alike(
    tenant: Tenant, applet: str, is_listed: bool, digits: str | None, headers: str
) -> None:
    courier, customer = a_person(), a_person()
    await tenant.allocate([courier], [customer])
    answers = []
    for send in (bytes, by_aiohttp):
        caller = courier if is_listed else a_person()
        async with connected(tenant) as replies:
            hop = plain(tenant, headers, applet, CallFrom=national(caller), digits=digits)
            replies.writer.write(send(hop))
            answers.append(await replies.next_whole())
    assert answers[0] == answers[1]


async def test_a_hop_sent_before_the_reply_to_another_is_answered_behind_it(tenant: Tenant) -> None:
    courier = a_person()
    await tenant.allocate([courier], [a_person()])
    # Strangers wait for what is on record of their call, and a courier for nothing.
    stranger, listed = plain(tenant), plain(tenant, CallFrom=national(courier))
    async with connected(tenant) as replies:
        for hop in (stranger, listed, stranger[:40], stranger[40:], listed):
            replies.writer.write(hop)
            await replies.writer.drain()
        answers = [await replies.next() for _ in range(4)]
    assert [status for status, _ in answers] == [302, 200, 302, 200]


async def test_a_client_that_leaves_before_its_reply_harms_nobody(tenant: Tenant) -> None:
    async with connected(tenant) as leaving:
        leaving.writer.write(plain(tenant))
        await leaving.writer.drain()
    async with connected(tenant) as replies:
        assert await replies.ask(plain(tenant)) == (302, '{"select":"reject"}')


async def test_a_connection_serves_plain_hops_and_all_others_in_turn(tenant: Tenant) -> None:
    courier = a_person()
    await tenant.allocate([courier], [a_person()])
    listed = {"CallFrom": national(courier)}
    stranger = {"CallFrom": national(a_person()), "CallSid": random_call_sid()}
    async with connected(tenant) as replies:
        assert await replies.ask(plain(tenant, **listed)) == (200, '{"select":"connect"}')
        assert await replies.ask(plain(tenant, **listed)) == (200, '{"select":"connect"}')
        assert await replies.ask(plain(tenant, **stranger)) == (302, '{"select":"pin"}')
        gather = plain(tenant, **stranger).replace(b"/passthru?", b"/gather?")
        status, body = await replies.ask(gather)
        assert (status, orjson.loads(body)["max_input_digits"]) == (200, len(PIN))
        assert await replies.ask(plain(tenant, digits=PIN, **stranger)) == (200, '{"select":"connect"}')
        assert await replies.ask(plain(tenant, **listed)) == (200, '{"select":"connect"}')


async def test_requests_sent_at_once_are_answered_in_their_order(tenant: Tenant) -> None:
    courier = a_person()
    await tenant.allocate([courier], [a_person()])
    listed, stranger = plain(tenant, CallFrom=national(courier)), plain(tenant)
    async with connected(tenant) as replies:
        assert await replies.ask(listed) == (200, '{"select":"connect"}')
        replies.writer.write(stranger + plain(tenant, CallFrom=national(courier)) + plain(tenant))
        answers = [await replies.next() for _ in range(3)]
    assert [status for status, _ in answers] == [302, 200, 302]


async def test_a_request_that_comes_in_pieces_is_put_together(tenant: Tenant) -> None:
    courier = a_person()
    await tenant.allocate([courier], [a_person()])
    request = plain(tenant, CallFrom=national(courier))
    async with connected(tenant) as replies:
        for place in range(0, len(request), 50):
            replies.writer.write(request[place : place + 50])
            await replies.writer.drain()
        assert await replies.next() == (200, '{"select":"connect"}')


@pytest.mark.parametrize(
    "header",
    [
        "Content-Length: 4\r\n",
        "content-length: 4\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: websocket\r\n",
        "X: a\r\n b\r\n",
        "X : a\r\n",
        "X: \x01\r\n",
    ],
)
async def test_what_means_more_than_it_says_is_read_by_aiohttp(tenant: Tenant, header: str) -> None:
    courier = a_person()
    await tenant.allocate([courier], [a_person()])
    caller = {"CallFrom": national(courier)}
    health = b"GET /healthz HTTP/1.1\r\nHost: cordboard\r\n\r\n"
    status_lines = []
    # On a connection in the lane, and on one that is aiohttp's from its first request on. The four bytes are
    # a body to whoever reads the header, and spoil the request behind them for whoever does not.
    for before in (plain(tenant, **caller), health):
        async with connected(tenant) as replies:
            await replies.ask(before)
            replies.writer.write(
                plain(tenant, header, **caller) + b"GET " + by_aiohttp(plain(tenant, **caller))
            )
            answered = await replies.rest()
            status_lines.append([line for line in answered.splitlines() if line.startswith(b"HTTP/1.")])
    assert status_lines[0] == status_lines[1] != []
