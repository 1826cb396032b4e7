"""An outbox on a real server, with made-up tenants, and subscribers that listen on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web

from cordboard.clock import SECOND_US, to_datetime
from cordboard.routing.model import AllocationId, Party, Product, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.storage.database import Connection, Database
from cordboard.storage.events import NewEvent, add_events
from cordboard.storage.facts import (
    CallCompletedFacts,
    DeallocatedFacts,
    Facts,
    VerificationFailedFacts,
    VerifiedFacts,
)
from cordboard.storage.provisioning import NewWebhookSecret, add_webhook_secret
from cordboard.webhooks.lookups import Address

# 2021-11-09T04:39:15Z, a moment of the reference page.
NOW_US: Final = 1_636_432_755 * SECOND_US
# Only there so that a broken test ends.
GIVE_UP_S: Final = 60

CALLER: Final = E164(917987686144)
CALLED: Final = E164(916292134471)
VIRTUAL_NUMBER: Final = E164(916292134464)
OTHER_VIRTUAL_NUMBER: Final = E164(916292134465)
PIN: Final = Pin("0713")
OTHER_PIN: Final = Pin("884")
CALL_SID: Final = "ec44cfd684850a68decc4cebc4e2143u"
ALLOCATION: Final = UUID("6447bb53-70c3-40ea-850b-de2fd3c585ee")

ENDPOINT_KEYS: Final = (
    "greenpin_call_complete_event_endpoint",
    "greencall_complete_event_endpoint",
    "verified_caller_event_endpoint",
    "failed_verification_event_endpoint",
    "deallocation_callback_event_endpoint",
)


class SetClock:
    """Stands still until it is set."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, seconds: float) -> None:
        self._now_us += int(seconds * SECOND_US)


async def emptied(database: Database) -> Database:
    # TRUNCATE would make new files, and wait for the disk, before every test.
    async def delete(connection: Connection) -> None:
        for table in ("event", "event_once", "event_subject", "tenant"):
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words.

    await database.write(delete)
    return database


async def set_tenant(database: Database, tenant_id: str, settings: dict[str, Any], cell: int = 0) -> None:
    async def write(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO tenant (cell, id, settings, created_at) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (id) DO UPDATE SET settings = excluded.settings",
            cell,
            tenant_id,
            settings,
            to_datetime(NOW_US),
        )

    await database.write(write)


async def set_subscriber(database: Database, tenant_id: str, url: str, cell: int = 0) -> None:
    """The tenant wants to be told everything, at one address."""
    await set_tenant(database, tenant_id, dict.fromkeys(ENDPOINT_KEYS, url), cell)


async def add_secret(database: Database, tenant_id: str) -> NewWebhookSecret:
    return await add_webhook_secret(database, tenant_id, NOW_US)


async def attempts_of(database: Database) -> list[tuple[str, int, int, int | None, str | None]]:
    """What is on record of every attempt: its event's subject and number, its own, status and error."""
    rows = await database.read(
        lambda connection: connection.fetch(
            "SELECT subject, seq, attempt, status, error FROM event_attempt"
            " JOIN event ON event.cell = event_attempt.cell AND event.id = event_id ORDER BY 1, 2, 3"
        )
    )
    return [tuple(row) for row in rows]


async def ids_of(database: Database) -> dict[tuple[str, int], UUID]:
    """Subject and number → id."""
    rows = await database.read(lambda connection: connection.fetch("SELECT subject, seq, id FROM event"))
    return {(row["subject"], row["seq"]): row["id"] for row in rows}


async def tell(database: Database, *events: NewEvent, cell: int = 0, now_us: int = NOW_US) -> None:
    await database.write(lambda connection: add_events(connection, cell, events, now_us))


async def kept(database: Database) -> list[asyncpg.Record]:
    """Every event of the outbox, by subject and number."""
    return await database.read(
        lambda connection: connection.fetch(
            "SELECT tenant_id, subject, seq, kind, endpoint_key, endpoint, facts, state, attempts, due_at,"
            " leased_until, last_result, finished_at FROM event ORDER BY tenant_id, subject, seq"
        )
    )


# ── facts ────────────────────────────────────────────────────────────────────


def verified(
    transaction_id: str | None = "order-id", caller: E164 | None = CALLER, **more: Any
) -> VerifiedFacts:
    return VerifiedFacts(
        transaction_id=transaction_id,
        allocation_id=AllocationId(ALLOCATION.bytes),
        virtual_number=VIRTUAL_NUMBER,
        caller=caller,
        pin=PIN,
        call_sid=CALL_SID,
        **more,
    )


def verification_failed(
    start_time: str | None = "2021-11-09 10:09:15",
    timezone: str = "IST",
    caller: E164 | None = CALLER,
    **more: Any,
) -> VerificationFailedFacts:
    return VerificationFailedFacts(
        start_time=start_time,
        at_us=NOW_US,
        timezone=timezone,
        caller=caller,
        virtual_number=VIRTUAL_NUMBER,
        call_sid=CALL_SID,
        pin=Pin("00123456789012"),
        **more,
    )


def deallocated(
    transaction_id: str | None = "order-id",
    a_pins: tuple[Pin, ...] = (PIN,),
    b_pins: tuple[Pin, ...] = (OTHER_PIN,),
    **more: Any,
) -> DeallocatedFacts:
    return DeallocatedFacts(
        transaction_id=transaction_id,
        allocation_id=AllocationId(ALLOCATION.bytes),
        usage=Usage.TWOWAY,
        a=Party((CALLER,), (VIRTUAL_NUMBER, OTHER_VIRTUAL_NUMBER), a_pins, listed_need_pin=True),
        b=Party((CALLED,), (OTHER_VIRTUAL_NUMBER,), b_pins, listed_need_pin=True),
        **more,
    )


def call_completed(
    recording_url: str | None = "https://recordings.example/1.mp3",
    timezone: str = "UTC",
    transaction_id: str | None = "random_string",
    called: E164 | None = CALLED,
    **more: Any,
) -> CallCompletedFacts:
    return CallCompletedFacts(
        transaction_id=transaction_id,
        allocation_id=AllocationId(ALLOCATION.bytes),
        call_sid=CALL_SID,
        virtual_number=VIRTUAL_NUMBER,
        caller=CALLER,
        called=called,
        call_type="completed",
        start_time="2020-03-23 12:58:02",
        # 2020-03-23T12:58:22Z
        at_us=1_584_968_302 * SECOND_US,
        timezone=timezone,
        dial_call_duration_s=20,
        on_call_duration_s=17,
        recording_url=recording_url,
        dial_call_status="completed",
        **more,
    )


def new_event(
    subject: str = "subject",
    facts: Facts | None = None,
    *,
    tenant_id: str = "acme",
    product: Product = Product.GREENPIN,
    once_key: str | None = None,
) -> NewEvent:
    return NewEvent(
        tenant_id=tenant_id,
        subject=subject,
        product=product,
        facts=facts or verified(),
        once_key=once_key,
    )


# ── subscribers ──────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def seq(self) -> int:
        return int(self.headers["cordboard-sequence"])

    @property
    def transaction_id(self) -> str:
        return str(self.body["transaction_id"])


Answer = Callable[[web.Request, Received], Awaitable[web.StreamResponse]]


def with_status(status: int, **headers: str) -> Answer:
    async def answer(_request: web.Request, _received: Received) -> web.StreamResponse:
        return web.Response(status=status, headers=headers)

    return answer


class Subscriber:
    """A real HTTP server on loopback that remembers what it was sent and answers as it was told to."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Answer = with_status(200)
        self.port = 0
        self._arrival = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    async def until(self, count: int) -> list[Received]:
        async with asyncio.timeout(GIVE_UP_S), self._arrival:
            await self._arrival.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        received = Received(request.path_qs, dict(request.headers), orjson.loads(raw), raw)
        async with self._arrival:
            self.received.append(received)
            self._arrival.notify_all()
        return await self.answer(request, received)


@asynccontextmanager
async def subscribed() -> AsyncIterator[Subscriber]:
    subscriber = Subscriber()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", subscriber._handle)
    # A sender that hangs up takes its handler with it, so no handler outlives its test.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    subscriber.port = runner.addresses[0][1]
    try:
        yield subscriber
    finally:
        await runner.cleanup()


# ── names ────────────────────────────────────────────────────────────────────

LOOPBACK: Final = Address(socket.AF_INET, socket.IPPROTO_TCP, "127.0.0.1")


class Nameserver:
    """Looks names up; one that begins with `hangs` when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Address | OSError = LOOPBACK
        self.let_go = threading.Event()
        self._arrival = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, host: str, _family: socket.AddressFamily) -> list[Address]:
        """In a thread."""
        self.asked.append(host)
        self._loop.call_soon_threadsafe(self._arrival.set)
        if host.startswith("hangs"):
            self.let_go.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return [self.answer]

    async def until(self, count: int) -> None:
        while len(self.asked) < count:
            self._arrival.clear()
            await self._arrival.wait()


@asynccontextmanager
async def a_nameserver() -> AsyncIterator[Nameserver]:
    nameserver = Nameserver()
    try:
        async with asyncio.timeout(GIVE_UP_S):
            yield nameserver
    finally:
        nameserver.let_go.set()
