"""Clients that are slow, broken or hostile: the answer is right or the connection ends; memory is bounded."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.platform import Applet, random_call_sid
from cordboard.simulator.receiver import EventKind, Receiver

from .conftest import ENVIRONMENT, MakeEngine
from .world import ADMIN_TOKEN, PIN, WRONG_PINS, Call, Tenant, a_line, a_person, make_tenant, national

# Only there so that a broken test ends.
GIVE_UP_S = 60
# As short as the engine takes them: nobody here waits for a slow client out of kindness.
TIMEOUT_S = "0.5"
CONNECTIONS_MAX = 6_000
PAGE_KIB = resource.getpagesize() // 1024

HOST = b"Host: cordboard\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(scope="module")
async def hostile_engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineProcess]:
    environment = {
        **ENVIRONMENT,
        "CORDBOARD_HEADER_TIMEOUT_S": TIMEOUT_S,
        "CORDBOARD_BODY_TIMEOUT_S": TIMEOUT_S,
        "CORDBOARD_CONNECTIONS_MAX": str(CONNECTIONS_MAX),
    }
    async with EngineProcess(tmp_path_factory.mktemp("hostile") / "data", environment) as engine:
        yield engine


@pytest.fixture
async def tenant(hostile_engine: EngineProcess, session: aiohttp.ClientSession, receiver: Receiver) -> Tenant:
    """In place of the one on the engine that all journeys share."""
    client = Client(session, hostile_engine.base_url, ADMIN_TOKEN)
    return await make_tenant(client, session, receiver, {"max_pin_attempts": 3}, [a_line(), a_line()])


def memory_kib(engine: EngineProcess) -> int:
    return int(Path(f"/proc/{engine.pid}/statm").read_text().split()[1]) * PAGE_KIB


@asynccontextmanager
async def connected(
    engine: EngineProcess,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = engine.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """Everything until the engine ends the connection, in whichever way."""
    received = b""
    async with asyncio.timeout(GIVE_UP_S):
        with suppress(ConnectionError):
            while part := await reader.read(1 << 16):
                received += part
    return received


async def said_to(engine: EngineProcess, request: bytes, *, is_first: bool = True) -> bytes:
    """The answer to a request after which the engine must close the connection."""
    async with connected(engine) as (reader, writer):
        if not is_first:
            writer.write(HEALTH)
            assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        writer.write(request)
        with suppress(ConnectionError):
            await writer.drain()
        return await all_of(reader)


def status_of(answer: bytes) -> int | None:
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else None


def hop(tenant: Tenant, applet: Applet = Applet.PASSTHRU, raw: str = "", **changed: str) -> bytes:
    """A hop of a stranger's call as bytes, after which the connection closes."""
    query = {
        "key": tenant.credentials.applet_key,
        "switch": "1",
        "CallSid": random_call_sid(),
        "CallFrom": national(a_person()),
        "CallTo": national(tenant.line),
        **changed,
    }
    path = f"/v1/tenants/{tenant.id}/exotel/{applet.value}?{urlencode(query)}{raw}"
    return f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n"


def connects(answer: bytes) -> bool:
    return b'{"select":"connect"}' in answer


async def connections(tenant: Tenant) -> int:
    metrics = (await tenant.client.ask("GET", "/metrics")).body.splitlines()
    [line] = [line for line in metrics if line.startswith("cordboard_connections ")]
    return int(float(line.split()[1]))


# ── requests that are none ───────────────────────────────────────────────────

POST = b"POST /v1/tenants/acme1m/greenpin HTTP/1.1\r\n" + HOST
BROKEN: dict[str, tuple[bytes, set[int | None]]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01" * 20, {400}),
    "zeros": (b"\0" * 1_000, {400}),
    # That is HTTP/0.9, and it ends the connection.
    "no version": (b"GET /healthz\r\n\r\n", {200}),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", {400}),
    "a bare colon": (b"GET /healthz HTTP/1.1\r\n" + HOST + b": x\r\n\r\n", {400}),
    "a control character": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: \x01\r\n\r\n", {400}),
    "bytes that are no UTF-8 in the path": (b"GET /\xff\xed\xa0\x80 HTTP/1.1\r\n" + HOST + b"\r\n", {400}),
    "a long line": (b"GET /healthz?" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", {400}),
    "a line without end": (b"GET /healthz?" + b"a" * 4_000_000, {431, None}),
    "a long header": (HEALTH[:-2] + b"X: " + b"a" * 20_000 + b"\r\n\r\n", {400}),
    "many headers": (HEALTH[:-2] + b"X: a\r\n" * 100 + b"\r\n", {400}),
    "many long headers": (HEALTH[:-2] + (b"X: " + b"a" * 15_000 + b"\r\n") * 60 + b"\r\n", {431, None}),
    "headers without end": (HEALTH[:-2] + b"X: a\r\n" * 1_000_000, {400, 431, None}),
    "a body of no length": (POST + b"Content-Length: x\r\n\r\n", {400}),
    "a body of less than nothing": (POST + b"Content-Length: -4\r\n\r\n", {400}),
    "a body of two lengths": (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", {400}),
    "a length and chunks": (
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400},
    ),
    "a chunk of no length": (POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", {400}),
    "a chunk of too great a length": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
        {400},
    ),
    "an encoding that nobody knows": (POST + b"Transfer-Encoding: rot13\r\n\r\n", {400}),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_request_is_refused_and_its_connection_closed(
    hostile_engine: EngineProcess, tenant: Tenant, name: str
) -> None:
    request, statuses = BROKEN[name]
    for is_first in (True, False):
        answer = await said_to(hostile_engine, request, is_first=is_first)
        assert status_of(answer) in statuses
        # An answer to one may not tell of another.
        assert tenant.id.encode() not in answer
    assert (await tenant.client.ask("GET", "/healthz")).status == 200


async def test_random_bytes_in_any_number_leave_memory_as_it_was(
    hostile_engine: EngineProcess, tenant: Tenant
) -> None:
    dice = random.Random(11)
    good = hop(tenant)

    async def spoil() -> None:
        spoilt = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        # What is spoilt need not end the connection, and half of it goes on without an end.
        tail = b"GET " + b"a" * dice.randrange(2_000)
        assert not connects(await said_to(hostile_engine, bytes(spoilt) + tail))

    await asyncio.gather(*(spoil() for _ in range(50)))
    before_kib = memory_kib(hostile_engine)
    for _ in range(20):
        await asyncio.gather(*(spoil() for _ in range(50)))
    assert memory_kib(hostile_engine) - before_kib < 32 << 10


# ── slow clients ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("before", [b"", HEALTH], ids=["first", "later"])
@pytest.mark.parametrize("sent", [b"G", b"GET /healthz HTTP/1.1\r\nHost: cordb", HEALTH[:-1]], ids=len)
async def test_half_a_head_is_not_waited_for(
    hostile_engine: EngineProcess, before: bytes, sent: bytes
) -> None:
    async with connected(hostile_engine) as (reader, writer):
        if before:
            writer.write(before)
            assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        writer.write(sent)
        assert status_of(await all_of(reader)) == 408


async def test_a_head_that_trickles_in_is_not_waited_for_either(hostile_engine: EngineProcess) -> None:
    async with connected(hostile_engine) as (reader, writer), asyncio.TaskGroup() as tasks:

        async def trickle() -> None:
            writer.write(HEALTH[:-2])
            with suppress(ConnectionError):
                while True:
                    writer.write(b"X: a\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.02)

        trickling = tasks.create_task(trickle())
        assert status_of(await all_of(reader)) == 408
        trickling.cancel()


async def test_half_a_head_behind_a_request_is_not_waited_for(hostile_engine: EngineProcess) -> None:
    answer = await said_to(hostile_engine, HEALTH + HEALTH + HEALTH[:-4])
    assert answer.count(b"ok\n") == 2
    assert status_of(answer.rpartition(b"ok\n")[2]) == 408


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    hostile_engine: EngineProcess, tenant: Tenant, framing: str
) -> None:
    head = (
        f"POST /v1/tenants/{tenant.id}/greenpin HTTP/1.1\r\nHost: cordboard\r\n"
        f"Authorization: {basic(tenant)}\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    )
    answer = await said_to(hostile_engine, head.encode() + b'5\r\n{"tra')
    assert status_of(answer) == 400
    assert b"did not arrive within" in answer


async def test_an_answer_that_nobody_reads_is_not_kept(hostile_engine: EngineProcess, tenant: Tenant) -> None:
    before_kib, count = memory_kib(hostile_engine), 50
    document = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
    async with AsyncExitStack() as stack:
        already = await connections(tenant)
        for _ in range(count):
            _, writer = await stack.enter_async_context(connected(hostile_engine))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(document * 100)
        async with asyncio.timeout(GIVE_UP_S):
            while await connections(tenant) > already:
                pass
        assert memory_kib(hostile_engine) - before_kib < 128 << 10


# ── many connections ─────────────────────────────────────────────────────────


async def test_thousands_of_idle_connections_cost_little_and_change_no_answer(
    hostile_engine: EngineProcess, tenant: Tenant
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(5_000, (hard if hard != resource.RLIM_INFINITY else 10_000) - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    courier, customer = a_person(), a_person()
    await tenant.allocate([courier], [customer])
    before_kib = memory_kib(hostile_engine)
    host, port = hostile_engine.base_url.removeprefix("http://").split(":")
    transports: list[asyncio.Transport] = []
    try:
        for n in range(count):
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, host, int(port)
            )
            transports.append(transport)
            if n % 10 == 0:
                # Some have been in use.
                transport.write(HEALTH)
        assert await connections(tenant) >= count
        assert await tenant.call(courier).targets() == [customer]
        assert memory_kib(hostile_engine) - before_kib < count * 20
    finally:
        for transport in transports:
            transport.close()


async def test_beyond_the_limit_a_connection_is_refused_and_later_ones_are_not(
    fresh_engine: MakeEngine,
) -> None:
    engine = fresh_engine(CORDBOARD_CONNECTIONS_MAX="3")
    await engine.start()
    async with connected(engine) as one, connected(engine) as two:
        async with connected(engine) as three:
            for reader, writer in (one, two, three):
                writer.write(HEALTH)
                assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
            assert status_of(await said_to(engine, HEALTH)) in {503, None}
            writer = one[1]
            writer.write(HEALTH)
            assert (await one[0].readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        last = b""
        async with asyncio.timeout(GIVE_UP_S):
            while status_of(last) != 200:
                last = await said_to(engine, HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


async def test_requests_in_one_go_are_all_answered_in_their_order(
    hostile_engine: EngineProcess, tenant: Tenant
) -> None:
    courier = a_person()
    await tenant.allocate([courier], [a_person()])
    keep = (b"Connection: close\r\n", b"")
    listed = hop(tenant, CallFrom=national(courier)).replace(*keep)
    stranger = hop(tenant).replace(*keep)
    sent, expected = [], []
    for n in range(300):
        sent.append((listed, stranger, HEALTH)[n % 3])
        expected.append((b'{"select":"connect"}', b'{"select":"pin"}', b"ok\n")[n % 3])
    answer = await said_to(hostile_engine, b"".join(sent) + hop(tenant))
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [*expected, b'{"select":"pin"}']


@pytest.mark.parametrize("framing", ["Content-Length: 400000000", "Transfer-Encoding: chunked"])
async def test_a_body_beyond_its_limit_is_not_taken_up(
    hostile_engine: EngineProcess, tenant: Tenant, framing: str
) -> None:
    before_kib = memory_kib(hostile_engine)
    head = (
        f"POST /v1/tenants/{tenant.id}/greenpin HTTP/1.1\r\nHost: cordboard\r\n"
        f"Authorization: {basic(tenant)}\r\n{framing}\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    async with connected(hostile_engine) as (reader, writer):
        writer.write(head.encode())
        with suppress(ConnectionError):
            for _ in range(1_000):
                writer.write(chunk)
                await writer.drain()
        # Where it was cut off while it was still sending, the answer may be lost.
        assert status_of(await all_of(reader)) in {413, None}
    assert memory_kib(hostile_engine) - before_kib < 32 << 10


# ── hops ─────────────────────────────────────────────────────────────────────

STRANGE: dict[str, dict[str, str]] = {
    "a CallSid of 10 kB": {"CallSid": "a" * 10_000},
    "a CallSid of 512 bytes in 128 characters": {"CallSid": "\N{GRINNING FACE}" * 128},
    "a CallSid with a zero": {"CallSid": "a\0b"},
    "a CallSid of blanks": {"CallSid": "   "},
    "a CallSid that is no UTF-8": {"raw": "&CallSid=%ff%fe"},
    "a CallSid half encoded": {"raw": "&CallSid=%e"},
    "digits of 9 kB": {"digits": "9" * 9_000},
    "digits with a zero": {"digits": "12\0"},
    "digits of another script": {"digits": "٤٨٢١"},
    "digits that are no UTF-8": {"raw": "&digits=%ed%a0%80"},
    "a caller of 10 kB": {"CallFrom": "9" * 10_000},
    "a caller with a zero": {"CallFrom": "\0"},
    "a start time that cannot be kept": {"StartTime": "\0", "digits": "1"},
    "everything twice": {"raw": "&CallSid=x&CallFrom=y&CallTo=z"},
    "parameters without end": {"raw": "&a=b" * 5_000},
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("applet", Applet)
async def test_a_strange_hop_connects_nobody_and_harms_no_other(
    hostile_engine: EngineProcess, tenant: Tenant, applet: Applet, name: str
) -> None:
    """A stranger is asked or refused, and the records of other calls are written all the same."""
    courier, customer = a_person(), a_person()
    await tenant.allocate([courier], [customer])
    good = tenant.call(courier)
    assert await good.select() == "connect"
    answer = await said_to(hostile_engine, hop(tenant, applet, **STRANGE[name]))
    assert status_of(answer) == 200
    assert customer.encode() not in answer
    body = answer.rpartition(b"\r\n\r\n")[2]
    if applet is Applet.PASSTHRU:
        assert body in {b'{"select":"pin"}', b'{"select":"reject"}'}
    # Also of somebody who connects by number alone, whatever the platform calls the call.
    listed = {"CallFrom": national(courier)} | STRANGE[name]
    await said_to(hostile_engine, hop(tenant, applet, **listed))
    assert await good.targets() == [customer]
    await until_recorded(good)
    faults = (await tenant.client.ask("GET", "/metrics")).body
    assert '\ncordboard_faults_total{fault="bug"} 0.0' in faults
    assert "\ncordboard_call_rows_dropped_total 0.0" in faults


@pytest.mark.parametrize(
    "changed",
    [
        {"RecordingUrl": "http://recordings.example/\0"},
        {"RecordingUrl": "u" * 50_000},
        {"StartTime": "\0", "DialCallStatus": "\0"},
        {"DialCallDuration": "9" * 5_000},
        {"DialWhomNumber": "\0"},
        {"raw": "&Legs[0][OnCallDuration]=" + "9" * 5_000},
        {"raw": "&Insights[Status]=%00&Insights[DisconnectedBy]=" + "a" * 5_000},
    ],
    ids=" ".join,
)
async def test_a_strange_end_is_recorded_once_like_any_other(
    hostile_engine: EngineProcess, tenant: Tenant, changed: dict[str, str]
) -> None:
    courier, customer = a_person(), a_person()
    await tenant.allocate([courier], [customer])
    call = tenant.call(courier)
    assert await call.targets() == [customer]
    end = {"CallSid": call.call_sid, "CallFrom": national(courier), "CallType": "completed", **changed}
    for _ in range(3):
        assert b'"ended"' in await said_to(hostile_engine, hop(tenant, Applet.PASSTHRU, **end))
    await tenant.told(EventKind.CALL_COMPLETED, call_sid=call.call_sid)
    assert len(await tenant.all_events(EventKind.CALL_COMPLETED)) == 1


@pytest.mark.parametrize(
    "path",
    ["a" * 5_000, "a%00", "%ff", "%ED%A0%80", "..", "acme1m%2f..", "A"],
)
async def test_a_tenant_that_can_be_none_is_unknown(hostile_engine: EngineProcess, path: str) -> None:
    for rest in ("passthru?key=1", "k/%ff/passthru", "k/%ED%A0%80/connect"):
        request = f"GET /v1/tenants/{path}/exotel/{rest} HTTP/1.1\r\n".encode() + HOST
        answer = await said_to(hostile_engine, request + b"Connection: close\r\n\r\n")
        assert status_of(answer) in {401, 404}


async def test_a_hop_repeated_a_hundred_times_at_once_is_one(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    await call.gather()
    assert set(await asyncio.gather(*(call.select(WRONG_PINS[0]) for _ in range(100)))) == {"pin"}
    # Two attempts are left, the last of which is the right one.
    assert await call.enter(WRONG_PINS[1]) == "pin"
    assert await call.enter(PIN) == "connect"
    assert len(await tenant.all_events(EventKind.VERIFICATION_FAILED)) == 2


async def test_hops_in_any_order_connect_whom_they_should(tenant: Tenant) -> None:
    courier, customer = a_person(), a_person()
    await tenant.allocate([courier], [customer])
    dice = random.Random(5)
    for _ in range(20):
        call = tenant.call(a_person())
        order = ["gather", "greeting", "connect", "passthru"]
        dice.shuffle(order)
        for applet in order:
            digits = PIN if applet == "passthru" else None
            answer = await call.hop(Applet(applet), digits)
            assert answer.status in {200, 302}
        # With its PIN among them, whenever it came, this caller is let in, and only to whom it is for.
        assert await call.targets() == [courier]


async def test_a_call_sid_of_another_call_opens_nothing(tenant: Tenant) -> None:
    courier, customer = a_person(), a_person()
    await tenant.allocate([courier], [customer], vns=[tenant.line])
    verified = tenant.call(a_person())
    assert await verified.enter(PIN) == "connect"
    other_line = tenant.virtual_numbers[1]
    assert verified.caller is not None
    for caller in (a_person(), None):
        reused = Call(tenant, caller, tenant.line, verified.call_sid)
        assert await reused.select() == "pin"
        assert await reused.targets() == []
        # Wrong PINs of the one are none of the other.
        assert await reused.enter(WRONG_PINS[0]) == "pin"
    # Nor does it open a line on which that caller is nobody.
    elsewhere = Call(tenant, verified.caller, other_line, verified.call_sid)
    assert await elsewhere.select() == "reject"
    assert await elsewhere.targets() == []
    # And the call that it was is as it was.
    assert await verified.targets() == [courier]


async def until_recorded(call: Call) -> None:
    """Until the decision about the call is in the list of calls."""
    async with asyncio.timeout(GIVE_UP_S):
        while not (await call.tenant.api("GET", f"/calls?call_sid={call.call_sid}")).data["items"]:
            pass


def basic(tenant: Tenant) -> str:
    return aiohttp.encode_basic_auth(tenant.id, tenant.credentials.api_token)
