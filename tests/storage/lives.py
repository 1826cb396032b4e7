"""What people leave in the tables: allocations, joins, calls, entries and events, some of it long ago."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Standing
from cordboard.routing.model import Connect, Matched, Product, Reason, Refuse, Side
from cordboard.routing.numbers import E164
from cordboard.routing.tenant import TenantSettings
from cordboard.storage import calls, events
from cordboard.storage.allocations import Idempotency
from cordboard.storage.calls import CallRow, CallType, NewEnd
from cordboard.storage.database import Connection
from cordboard.storage.events import AttemptError, EventState, Outcome
from cordboard.storage.outcomes import CallKey
from cordboard.storage.sealing import NO_KEYS, DataKeys
from tests.storage.office import NOW_US, Office

HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
_people, _pins, _sids = count(1), count(1), count(1)


def new_person() -> E164:
    return E164(919_700_000_000 + next(_people))


def new_pin() -> str:
    """Long, so that no other number or id has it by chance."""
    return f"{730_000_000 + next(_pins) * 977}"


@dataclass
class Life:
    """One allocation with all that happens around it."""

    office: Office
    at_us: int
    product: Product = Product.GREENPIN
    cool_off_s: int = 3_600
    ann: E164 = field(default_factory=new_person)
    ben: E164 = field(default_factory=new_person)
    cat: E164 = field(default_factory=new_person)
    a_pin: str = field(default_factory=new_pin)
    b_pin: str = field(default_factory=new_pin)
    wrong: str = field(default_factory=new_pin)
    standing: Standing = field(init=False)

    @property
    def people(self) -> tuple[E164, E164, E164]:
        return self.ann, self.ben, self.cat

    @property
    def pins(self) -> tuple[str, str, str]:
        return self.a_pin, self.b_pin, self.wrong

    async def live(self) -> None:
        """Ann and Ben are listed and Cat joins; they call, they mistype, and it is all told to somebody."""
        office, now_us = self.office, self.at_us
        standing = replace(
            office.standing(
                [self.ann],
                [self.ben],
                a_pin=self.a_pin,
                b_pin=self.b_pin,
                product=self.product,
                cool_off_s=self.cool_off_s,
            ),
            created_at_us=now_us,
        )
        answer = f'{{"numbers": ["{self.ann.plus}", "{self.ben.plus}"], "pin": "{self.b_pin}"}}'.encode()
        kept = Idempotency(f"key-{next(_sids)}", bytes(32), answer)
        await office.make(standing, now_us=now_us, keys=[kept])
        self.standing = await office.found(standing)
        await office.enter(self.standing, Side.B, self.cat, now_us=now_us + 1)
        wrong = office.wrong(f"wrong-{next(_sids)}", self.wrong, self.ann, now_us + 2)
        await office.record(wrong, now_us=now_us + 2)
        await self.call(self.ann, self.ben, Side.A)
        await self.call(self.cat, self.ann, Side.B)

    async def call(self, caller: E164, target: E164, side: Side) -> None:
        office, sid = self.office, f"call-{next(_sids)}"
        key = CallKey(office.tenant.id, sid, office.vn, caller)
        allocation = self.standing.allocation
        decision = Connect(allocation.id, allocation.product, side, (target,), office.vn, Matched.LISTED)
        refused = CallRow(key._replace(call_sid=f"no-{sid}"), Refuse(Reason.WRONG_PIN), self.at_us)
        rows = [CallRow(key, decision, self.at_us), refused]
        end = NewEnd(
            tenant_id=office.tenant.id,
            call_sid=sid,
            settings=TenantSettings(),
            call_type=CallType.COMPLETED,
            dial_call_status="completed",
            dialled=target,
            dial_call_duration_s=17,
            on_call_duration_s=12,
            recording_url="https://recordings.example/1",
            start_time=None,
            at_us=self.at_us,
        )

        async def write(connection: Connection) -> None:
            await calls.write_rows(connection, office.cell, rows)
            await calls.record_ends(connection, office.cell, [end], self.at_us)

        await office.database.write(write)

    async def move(self) -> None:
        """To another VN, with other PINs, so that the old ones cool."""
        allocation = (await self.office.found(self.standing)).allocation
        vns = (self.office.other_vn,)
        becomes = allocation._replace(
            a=allocation.a._replace(virtual_numbers=vns), b=allocation.b._replace(virtual_numbers=vns)
        )
        self.standing = await self.office.update(self.standing, becomes, self.at_us + 10)

    async def end(self, at_us: int) -> None:
        await self.office.release(self.standing, now_us=at_us)


async def deliver(
    office: Office,
    now_us: int,
    keys: DataKeys = NO_KEYS,
    *,
    dead: bool = False,
) -> int:
    """All events of the office that wait, in their order; how many."""
    told = 0
    while True:

        async def one_round(connection: Connection) -> int:
            lanes = [lane for lane in await events.pending_lanes(connection) if lane.cell == office.cell]
            if not lanes:
                return 0
            claims = await events.claim(connection, lanes, now_us, HOUR_US, 100)
            outcomes = [
                Outcome(
                    claim=claim,
                    state=EventState.DEAD if dead else EventState.DELIVERED,
                    result="told",
                    at_us=now_us,
                    error=AttemptError.REFUSED if dead else None,
                )
                for claim in claims
            ]
            if outcomes:
                assert all(await events.record(connection, office.cell, outcomes, now_us, keys))
            return len(claims)

        done = await office.database.write(one_round)
        if not done:
            return told
        told += done


async def some_lives(office: Office, seed: int, at_us: int = NOW_US) -> list[Life]:
    """A few, of each kind by chance; the VNs of an office have room for all of them."""
    dice = Random(seed)
    lives = []
    for _ in range(4):
        life = Life(
            office,
            at_us,
            product=dice.choice(list(Product)),
            cool_off_s=dice.choice([0, 3_600]),
        )
        await life.live()
        if dice.random() < 0.5:
            await life.move()
        lives.append(life)
    return lives


async def facts_kept(office: Office) -> list[tuple[str, str, dict[str, Any]]]:
    rows = await office.fetch(
        "SELECT state, facts_are, facts FROM event WHERE cell = $1 ORDER BY subject, seq"
    )
    return [tuple(row) for row in rows]
