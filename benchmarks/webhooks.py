"""Events to a receiver on this machine: one engine with a backlog that it signs, delivers and puts on record.

The receiver answers at once and does nothing else; it shares its core with PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, cast
from uuid import UUID

from benchmarks.cores import cpu_s
from benchmarks.engine import CALLS_BACK, Engine
from benchmarks.figures import Figure
from cordboard.clock import SystemClock
from cordboard.routing.model import AllocationId, Product
from cordboard.routing.numbers import E164, Pin
from cordboard.storage.database import Connection as DatabaseConnection
from cordboard.storage.database import Database
from cordboard.storage.events import NewEvent, add_events, pending_count
from cordboard.storage.facts import VerifiedFacts
from cordboard.storage.provisioning import change_settings, get_tenant

PART: Final = "webhooks"
# As many as one transaction of an expiry tells of, many times over.
TOLD_AT_A_TIME: Final = 1_000
WAIT_S: Final = 60.0
POLL_S: Final = 0.05


async def webhooks(engine: Engine, events: int) -> AsyncIterator[Figure]:
    receiver = Receiver()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(receiver), CALLS_BACK)
    port = server.sockets[0].getsockname()[1]
    database = Database(**engine.database.connect_kwargs)
    await database.connect()
    try:
        tenant_id = engine.credentials.tenant_id
        url = {"verified_caller_event_endpoint": f"http://{CALLS_BACK}:{port}/events"}
        clock = SystemClock()
        await change_settings(database, tenant_id, url, clock.now_us())
        cell = (await get_tenant(database, tenant_id)).cell
        before_s = cpu_s(*engine.own_pids)
        # In one transaction, so that all of them are there when the first is sent.
        new = [told_of(number) for number in range(events)]

        async def tell(connection: DatabaseConnection) -> None:
            for first in range(0, events, TOLD_AT_A_TIME):
                some = new[first : first + TOLD_AT_A_TIME]
                await add_events(connection, cell, some, clock.now_us())

        await database.write(tell)
        async with asyncio.timeout(WAIT_S):
            # On record is later than received.
            while await database.read(pending_count):  # noqa: ASYNC110 - another process's work.
                await asyncio.sleep(POLL_S)
        seconds = asyncio.get_running_loop().time() - receiver.first_s
        used_s = cpu_s(*engine.own_pids) - before_s
        again = receiver.events - events
        yield Figure(
            PART,
            "one node, one receiver",
            allocations=engine.world.allocations,
            per_second=events / seconds,
            cpu_us=used_s / events * 1e6,
            note=f"{events:,} events signed, delivered and on record with their attempts; {again} sent twice",
        )
    finally:
        server.close()
        await database.close()


def told_of(number: int) -> NewEvent:
    """Each is of a subject of its own, like the events of different allocations."""
    return NewEvent(
        tenant_id="acme1m",
        subject=f"call-{number}",
        product=Product.GREENPIN,
        facts=VerifiedFacts(
            transaction_id=f"order-{number}",
            allocation_id=AllocationId(UUID(int=number).bytes),
            virtual_number=E164(918000000010),
            caller=E164(919800000000 + number),
            pin=Pin("4821"),
            call_sid=f"{number:032x}",
        ),
    )


class Receiver:
    def __init__(self) -> None:
        self.events = 0
        self.first_s = 0.0


class Connection(asyncio.Protocol):
    """Reads requests with a Content-Length and answers each with an empty 200."""

    _ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one in all but its class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._unread) < end + 4 + length:
                return
            self._unread = self._unread[end + 4 + length :]
            if not self._receiver.events:
                self._receiver.first_s = asyncio.get_running_loop().time()
            self._receiver.events += 1
            self._transport.write(self._ANSWER)
