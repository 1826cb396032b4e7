"""kill -9 at any moment, again and again under load: what was answered is there, exactly once.

A round is: start, work, kill, start, reconcile. The load remembers what it asked for and what it was
answered; what was not answered may be there whole, or not at all. CORDBOARD_SOAK_KILLS sets how many rounds
there are.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from cordboard.simulator.client import Answer, Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.receiver import WAIT_S, EventKind, Receiver, kind_of
from cordboard.storage.embedded import running_server
from tests.webhooks.outbox import Received, subscribed, with_status

from .conftest import MakeEngine
from .outages import processes_of, send_all
from .world import ENDPOINTS, PIN, Call, Tenant, a_person, make_tenant, pending_events

At = Callable[[EngineProcess], Client]

# With 1.5 s for each round, 100 take some two and a half minutes.
ENGINE_KILLS: Final = int(os.environ.get("CORDBOARD_SOAK_KILLS", "100"))
# A crash recovery and the way back take three to four seconds.
DATABASE_KILLS: Final = max(ENGINE_KILLS // 2, 2)
# So that a round that fails can be played again; the kernel's moments cannot.
SEED: Final = int(os.environ.get("CORDBOARD_SOAK_SEED", "20260105"))
# Between the first request of a round and its kill: some 5 to 200 requests.
LOAD_S: Final = (0.02, 0.5)

GUESSING_IS_FREE: Final = {
    "pin_failures_per_caller": "99999/10s",
    "pin_failures_per_vn": "99999/10s",
    "pin_failures_per_tenant": "99999/10s",
}
WRONG: Final = "999999999"

Lost = (aiohttp.ClientError, ConnectionError, TimeoutError)


@dataclass
class Order:
    """One allocation of the load, and what is known of it."""

    transaction_id: str
    agent: str
    pin: str
    greenpin_id: str | None = None
    # B's listed number, if its last change was answered; both the old and the new one if not.
    customers: set[str] = field(default_factory=set)
    # None: a release was asked for and not answered.
    is_released: bool | None = False


@dataclass
class Entry:
    call: Call
    pin: str
    is_right: bool
    is_answered: bool = False


@dataclass
class Round:
    """What was asked for since the last start."""

    orders: list[Order] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    ends: dict[str, bool] = field(default_factory=dict)
    answered: int = 0


class Load:
    """What a tenant's software and its platform do at the same time, until the engine is away."""

    def __init__(self, line: str, dice: Random) -> None:
        self._line = line
        self._dice = dice
        self._numbers = count(1)
        self.round = Round()
        # An allocation that is never touched: the strangers and ends of a round always have one.
        self._standing: Order | None = None

    async def begin(self, tenant: Tenant) -> None:
        self.round = Round()
        self._standing = await self.make(tenant)

    async def run(self, tenant: Tenant, *, survives: bool) -> None:
        """Raises nothing that a killed engine or database does; with `survives` goes on after a 503."""
        async with asyncio.TaskGroup() as workers:
            for work in (self._change, self._change, self._verify, self._verify, self._guess, self._end):
                workers.create_task(self._until_away(work, tenant, survives=survives))

    async def _until_away(self, work: Callable[[Tenant], Any], tenant: Tenant, *, survives: bool) -> None:
        try:
            while True:
                await work(tenant)
        except Lost:
            return
        except asyncio.CancelledError:
            if not survives:
                raise

    def order_of(self, transaction_id: str, agent: str, customer: str, pin: str) -> dict[str, Any]:
        return {
            "transaction_id": transaction_id,
            "a": {"vns": [self._line], "numbers": [agent]},
            "b": {"vns": [self._line], "numbers": [customer], "pin": pin},
        }

    async def make(self, tenant: Tenant) -> Order:
        number = next(self._numbers)
        customer = a_person()
        order = Order(f"ORD-{number}", a_person(), f"{number:07d}", customers={customer})
        self.round.orders.append(order)
        answer = await tenant.create(self.order_of(order.transaction_id, order.agent, customer, order.pin))
        if self._is_answered(answer):
            order.greenpin_id = answer.data["greenpin_id"]
        return order

    async def _change(self, tenant: Tenant) -> None:
        """Make; then change it, release it, or leave it."""
        order = await self.make(tenant)
        if order.greenpin_id is None:
            return
        path = f"/greenpin/{order.greenpin_id}"
        fate = self._dice.random()
        if fate < 0.4:
            customer = a_person()
            order.customers.add(customer)
            if self._is_answered(await tenant.api("PUT", path, {"b": {"numbers": [customer]}})):
                order.customers = {customer}
        if fate > 0.2:
            order.is_released = None
            if self._is_answered(await tenant.api("DELETE", path)):
                order.is_released = True
        # fate ≤ 0.2: changed and left standing.

    async def _verify(self, tenant: Tenant) -> None:
        """A stranger is asked, and knows the PIN."""
        assert self._standing is not None
        entry = Entry(tenant.call(a_person()), self._standing.pin, is_right=True)
        if (await entry.call.gather()).status != 200:
            return
        self.round.entries.append(entry)
        said = await entry.call.select(entry.pin)
        # With `reject` nothing is promised: the engine may have had a fault.
        entry.is_answered = said == "connect"
        if entry.is_answered:
            assert await entry.call.targets() == [self._standing.agent], "nobody is connected wrongly"

    async def _guess(self, tenant: Tenant) -> None:
        entry = Entry(tenant.call(a_person()), WRONG, is_right=False)
        if (await entry.call.gather()).status != 200:
            return
        self.round.entries.append(entry)
        said = await entry.call.select(entry.pin)
        assert said != "connect", "nobody is connected wrongly"
        entry.is_answered = said == "pin"

    async def _end(self, tenant: Tenant) -> None:
        assert self._standing is not None
        call = tenant.call(self._standing.agent)
        assert await call.select() == "connect"
        self.round.ends[call.call_sid] = False
        [customer] = self._standing.customers
        answer = await call.talk(customer, tenant.line)
        self.round.ends[call.call_sid] = answer.status == 200
        self.round.answered += 1

    def _is_answered(self, answer: Answer) -> bool:
        """A 503 says that nothing was done, or that nobody knows."""
        assert answer.status in {200, 503}, answer.body
        self.round.answered += answer.status == 200
        return answer.status == 200


class Books:
    """The database beside the load's own memory; `reconcile` compares the two."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], tenant_id: str) -> None:
        self._connection = connection
        self._tenant_id = tenant_id

    async def _rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._connection.fetch(query, self._tenant_id, *arguments)

    async def reconcile(self, tenant: Tenant, done: Round) -> None:
        await self._check_entries(done)
        await self._check_ends(done)
        await self._check_orders(tenant, done)
        await self._check_events()

    async def _check_entries(self, done: Round) -> None:
        rows = await self._rows(
            "SELECT call_sid, outcome, count(*) FROM verification"
            " WHERE tenant_id = $1 AND call_sid = ANY($2) GROUP BY call_sid, outcome",
            [entry.call.call_sid for entry in done.entries],
        )
        recorded = {row["call_sid"]: (row["outcome"], row["count"]) for row in rows}
        assert len(recorded) == len(rows), "a call of one entry has one outcome"
        for entry in done.entries:
            found = recorded.get(entry.call.call_sid)
            expected = ("success" if entry.is_right else "failure", 1)
            assert found == expected or (found is None and not entry.is_answered)

    async def _check_ends(self, done: Round) -> None:
        rows = await self._rows(
            "SELECT call_sid FROM call_end WHERE tenant_id = $1 AND call_sid = ANY($2)", list(done.ends)
        )
        recorded = {row["call_sid"] for row in rows}
        assert {call_sid for call_sid, is_answered in done.ends.items() if is_answered} <= recorded

    async def _check_orders(self, tenant: Tenant, done: Round) -> None:
        rows = await self._rows(
            "SELECT client_id, id::text, state FROM allocation WHERE tenant_id = $1 AND client_id = ANY($2)",
            [order.transaction_id for order in done.orders],
        )
        made = {row["client_id"]: row for row in rows}
        assert len(made) == len(rows), "made once"
        for order in done.orders:
            row = made.get(order.transaction_id)
            if order.greenpin_id is not None:
                assert row is not None
                assert row["id"] == order.greenpin_id
            state = None if row is None else row["state"]
            # Without an answer a create may be there, whole, or not.
            expected = {
                False: {"active"} if order.greenpin_id else {"active", None},
                True: {"vault"},
                None: {"active", "vault"},
            }[order.is_released]
            assert state in expected, order
            await self._check_call(tenant, order, state)

    async def _check_call(self, tenant: Tenant, order: Order, state: str | None) -> None:
        """The listed caller connects to whom the last answered change says, or to nobody."""
        answer = await tenant.call(order.agent).connect()
        targets = answer.body["destination"]["numbers"]
        is_answered = order.greenpin_id is not None and order.is_released is not None
        if not is_answered and bool(targets) != (state == "active"):
            # The engine may do what it was asked for between the two looks, when whoever asked is gone.
            rows = await self._rows(
                "SELECT state FROM allocation WHERE tenant_id = $1 AND client_id = $2", order.transaction_id
            )
            state = rows[0]["state"] if rows else None
        if state == "active":
            assert targets, "whatever is granted, connects"
            # Members of the round's standing allocation come behind the one who is listed.
            assert targets[0] in order.customers
        else:
            assert targets == []

    async def _check_events(self) -> None:
        """Each event is there exactly once, and the subjects are numbered without a gap."""
        counts = {row["kind"]: row["count"] for row in await self._rows(_EVENT_COUNTS)}
        truth = (await self._rows(_TRUTH))[0]
        assert counts == {kind: n for kind, n in truth.items() if n}
        assert await self._rows(_GAPS) == []
        # Every stranger with the right PIN has joined, once.
        assert (await self._rows(_MEMBERS))[0]["count"] == truth["verified"]


_EVENT_COUNTS: Final = "SELECT kind, count(*) FROM event WHERE tenant_id = $1 GROUP BY kind"
_TRUTH: Final = """
SELECT
    (SELECT count(*) FROM verification WHERE tenant_id = $1 AND outcome = 'failure') AS verification_failed,
    (SELECT count(*) FROM verification WHERE tenant_id = $1 AND outcome = 'success') AS verified,
    (SELECT count(*) FROM call_end WHERE tenant_id = $1) AS call_completed,
    (SELECT count(*) FROM allocation WHERE tenant_id = $1 AND state = 'vault') AS deallocated
"""
_MEMBERS: Final = """
SELECT count(*) FROM party_number JOIN allocation ON allocation.cell = party_number.cell
    AND allocation.id = party_number.allocation_id
WHERE allocation.tenant_id = $1 AND party_number.joined_at IS NOT NULL
"""
_GAPS: Final = """
SELECT subject FROM event WHERE tenant_id = $1 GROUP BY subject
HAVING count(*) <> max(seq) OR min(seq) <> 1
"""


async def until_ready(client: Client) -> Mapping[str, Any]:
    """The database is there, and has everything that the spool had."""
    async with asyncio.timeout(WAIT_S):
        while True:
            ready = await client.ask("GET", "/readyz")
            if ready.status == 200 and ready.body["database_up"] and not ready.body["spool_records"]:
                body: Mapping[str, Any] = ready.body
                return body


@pytest.fixture
async def load(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> tuple[EngineProcess, Tenant, Load]:
    engine = fresh_engine()
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver, GUESSING_IS_FREE)
    return engine, tenant, Load(tenant.line, Random(SEED))


async def connected_to_database(engine: EngineProcess) -> asyncpg.Connection[asyncpg.Record]:
    address = running_server(engine.postgres_dir)
    assert address is not None
    return await asyncpg.connect(**address.connect_kwargs)


async def test_a_killed_engine_loses_nothing_and_doubles_nothing(
    load: tuple[EngineProcess, Tenant, Load], session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine, tenant, work = load
    dice = Random(SEED)
    seen: Counter[str] = Counter()
    # The database outlives its engine, and so does a connection to it.
    connection = await connected_to_database(engine)
    books = Books(connection, tenant.id)
    for _ in range(ENGINE_KILLS):
        await work.begin(tenant)
        async with asyncio.TaskGroup() as working:
            working.create_task(work.run(tenant, survives=False))
            await asyncio.sleep(dice.uniform(*LOAD_S))
            engine.crash()
        await engine.ended()
        await engine.start()
        tenant = Tenant(at(engine), session, receiver, tenant.credentials, tenant.virtual_numbers)
        await until_ready(tenant.client)
        done = work.round
        await books.reconcile(tenant, done)
        seen["answered"] += done.answered + sum(entry.is_answered for entry in done.entries)
        seen["unanswered orders"] += sum(order.greenpin_id is None for order in done.orders)
        seen["unanswered entries"] += sum(not entry.is_answered for entry in done.entries)
        seen["unanswered ends"] += sum(not is_answered for is_answered in done.ends.values())
    await connection.close()
    # It was killed in the middle of things, and not between them.
    assert seen["answered"] > ENGINE_KILLS
    assert seen["unanswered orders"] > ENGINE_KILLS / 4
    print(f"{ENGINE_KILLS} kills of the engine: {dict(seen)}")  # noqa: T201 - shown by `pytest -s`.


async def test_a_killed_database_loses_nothing_and_doubles_nothing(
    load: tuple[EngineProcess, Tenant, Load],
) -> None:
    """The engine lives on: it connects, records in its spool, refuses changes, brings the database back."""
    engine, tenant, work = load
    dice = Random(SEED)
    spooled = 0
    for _ in range(DATABASE_KILLS):
        await work.begin(tenant)
        async with asyncio.TaskGroup() as working:
            running = working.create_task(work.run(tenant, survives=True))
            await asyncio.sleep(dice.uniform(*LOAD_S))
            processes = processes_of(engine.postgres_dir)
            # The postmaster, one of its children, or all at once.
            killed = dice.choice([processes[:1], [dice.choice(processes)], processes])
            send_all(killed, signal.SIGKILL)
            await asyncio.sleep(dice.uniform(0.1, 1.0))
            running.cancel()
        await until_ready(tenant.client)
        done = work.round
        connection = await connected_to_database(engine)
        await Books(connection, tenant.id).reconcile(tenant, done)
        await connection.close()
    written = (await tenant.client.ask("GET", "/metrics")).body.split("\ncordboard_spool_written_total ")[1]
    spooled = int(float(written.split()[0]))
    assert spooled > 0
    assert await engine.stop() == 0
    print(f"{DATABASE_KILLS} kills of the database: {spooled} outcomes and ends in the spool")  # noqa: T201


async def test_an_event_in_hand_is_told_again_before_those_behind_it(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    """Killed while the subscriber has a request and has not answered it."""

    async def hold(_request: web.Request, _received: Received) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    agent, customer = a_person(), a_person()
    engine = fresh_engine()
    await engine.start()
    async with subscribed() as subscriber:
        subscriber.answer = hold
        endpoints = dict.fromkeys(ENDPOINTS.values(), subscriber.url)
        tenant = await make_tenant(at(engine), session, receiver, endpoints)
        made = await tenant.allocate([agent], [customer])
        assert await tenant.call(a_person()).enter(PIN) == "connect"
        [in_hand] = await subscriber.until(1)
        call = tenant.call(agent)
        assert await call.select() == "connect"
        await call.talk(customer, tenant.line)
        assert (await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")).status == 200
        await engine.kill()
        subscriber.answer = with_status(200)
        connection = await connected_to_database(engine)
        # As if the half minute had passed after which a sender is taken for dead.
        ended = await connection.execute("UPDATE event SET leased_until = now() WHERE leased_until > now()")
        assert ended == "UPDATE 1"

        await engine.start()
        received = await subscriber.until(4)
        async with asyncio.timeout(WAIT_S):
            while await pending_events(at(engine)):
                pass

    assert [(kind_of(one.body), one.seq) for one in received] == [
        (EventKind.VERIFIED, 1),
        (EventKind.VERIFIED, 1),
        (EventKind.CALL_COMPLETED, 2),
        (EventKind.DEALLOCATED, 3),
    ]
    assert (received[1].id, received[1].raw) == (in_hand.id, in_hand.raw)
    assert len({one.id for one in received}) == 3
    rows = await connection.fetch("SELECT seq, state, attempts FROM event ORDER BY seq")
    await connection.close()
    assert [tuple(row) for row in rows] == [(1, "delivered", 2), (2, "delivered", 1), (3, "delivered", 1)]
