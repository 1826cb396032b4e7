"""Everything that clients, callers and time can do to a tenant, in any order, against the real
switchboard on a real database; a plain list of what is allocated audits every answer.

CORDBOARD_SOAK=20 plays twenty times as many stories.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar, assert_never
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cordboard.clock import SECOND_US
from cordboard.node import running_switchboard
from cordboard.routing.allocate import Code, Draft, Generation, PartyDraft, Unacceptable
from cordboard.routing.model import (
    NEW_CALL,
    NOT_EXCEEDED,
    AllocationId,
    AskPin,
    Call,
    CallRules,
    Connect,
    Decision,
    NoEntry,
    Outcome,
    Product,
    Progress,
    Reason,
    Refuse,
    RightPin,
    Side,
    Usage,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import Hop, after, entry_of, with_outcome
from cordboard.settings import Settings
from cordboard.storage import allocations, feed, provisioning
from cordboard.storage.allocations import AllocationName, AlreadyReleased, NotFound
from cordboard.storage.database import Connection, Database
from cordboard.storage.embedded import EmbeddedPostgres
from cordboard.storage.feed import Position
from cordboard.storage.provisioning import NewVirtualNumber
from cordboard.switchboard.allocating import Changed
from cordboard.switchboard.answering import Caller, Keyed
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import GreenPinRevision, GreenPinWish
from cordboard.tables.board import BoardTables
from tests.routing.naive_model import naive_decision
from tests.storage.boards import meaning_of
from tests.switchboard.plain_model import FOREIGN, NONSENSE, Flags, Held, PlainModel

SOAK: Final = int(os.environ.get("CORDBOARD_SOAK", "1"))
STORIES: Final = 60 * SOAK
STEPS: Final = 30

# 2026-01-01; the clock of the tests only moves when a rule moves it.
START_US: Final = 1_767_225_600 * SECOND_US
# Only there so that a broken test ends.
GIVE_UP_S: Final = 60

PEOPLE: Final = tuple(E164(919800000021 + n) for n in range(4))
OUTSIDER: Final = E164(919800000099)  # listed by nobody, but may join.
CALLERS: Final = (*PEOPLE, OUTSIDER, None)
PINS: Final = (Pin("1"), Pin("2"), Pin("01"), Pin("12"))
ENTRIES: Final = ("", "1", "2", "01", "12", "9", "1234567890")
CLIENT_IDS: Final = ("ORD-1", "ORD-2", "ORD-3", "ORD-4")
SIDS: Final = ("sid-1", "sid-2", "sid-3")
# Not a URL: nothing goes over the network.
NOBODY: Final = "nobody"

Result = TypeVar("Result")


def name_of(id: AllocationId) -> AllocationName:
    return AllocationName(UUID(bytes=id), Product.GREENPIN, Generation.FIRST)


class HandMovedClock:
    def __init__(self) -> None:
        self._now_us = START_US

    def now_us(self) -> int:
        return self._now_us

    def advance(self, us: int) -> None:
        self._now_us += us


@dataclass
class Stage:
    """What all stories share: a running switchboard, and the loop in which it runs."""

    runner: asyncio.Runner
    database: Database
    switchboard: Switchboard
    clock: HandMovedClock
    directory: Path
    numbers: Iterator[int]

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        async def limited() -> Result:
            async with asyncio.timeout(GIVE_UP_S):
                return await work

        return self.runner.run(limited())


# ── dice ─────────────────────────────────────────────────────────────────────

_names = st.lists(st.sampled_from(PEOPLE), max_size=2, unique=True).map(lambda many: [n.plus for n in many])
_odd_names = st.sampled_from(
    [
        [PEOPLE[0].plus, PEOPLE[0].plus],
        [NONSENSE],
        [FOREIGN],
        [PEOPLE[1].plus, NONSENSE],
        ["a VN"],
        ["their VN"],
    ]
)
_one_name = st.sampled_from(PEOPLE).map(lambda number: [number.plus])
_numbers = st.integers(0, 19).flatmap(
    lambda dice: _odd_names if dice == 0 else _one_name if dice < 12 else _names
)
# By place in the pool; 9 is the VN of another tenant, 8 no number at all.
_places = st.sampled_from([[0], [0], [1], [0, 1], [1, 0], [2], [0], [1], [9], [0, 8]])
_maybe_pin = st.sampled_from([*PINS, *PINS, None, None, None])
_maybe_length = st.sampled_from([None, None, None, 2, 2, 3])
_usages = st.sampled_from([None, None, Usage.TWOWAY, Usage.ONEWAY])
_durations = st.sampled_from([5, 30, 60, 600, None])


@dataclass(frozen=True)
class Asked:
    """A party of a request before the story's numbers are put in."""

    numbers: list[str] | None
    places: list[int] | None
    pin: Pin | None
    pin_length: int | None


_new_parties = st.builds(Asked, _numbers, st.one_of(_places, st.none()), _maybe_pin, _maybe_length)
_changed_parties = st.builds(
    Asked,
    st.one_of(st.none(), st.none(), _numbers),
    st.one_of(st.none(), st.none(), _places),
    st.one_of(st.none(), _maybe_pin),
    st.one_of(st.none(), _maybe_length),
)
_flags = st.builds(
    Flags,
    a_pin=st.sampled_from([True, True, False]),
    b_pin=st.sampled_from([True, True, False]),
    common_pin=st.sampled_from([False, False, False, True]),
    cool_off_s=st.sampled_from([0, 0, 20]),
)


class Story(RuleBasedStateMachine):
    """One tenant's life."""

    stage: Stage

    @initialize(
        flags=_flags,
        attempts_max=st.sampled_from([2, 3]),
        refuse_withheld=st.sampled_from([False] * 4 + [True]),
    )
    def begin(self, flags: Flags, attempts_max: int, refuse_withheld: bool) -> None:
        self.clock = self.stage.clock
        self.clock.advance(SECOND_US)
        number = next(self.stage.numbers)
        self.tenant_id = f"tenant-{number}"
        self.pool = [E164(918_000_000_000 + number * 10 + place) for place in range(3)]
        self.other_vn = E164(918_000_000_000 + number * 10 + 9)
        self.call_rules = CallRules(attempts_max, refuse_withheld)
        self.flags = flags
        self.model = PlainModel(self.pool, [self.other_vn])
        self.progress: dict[tuple[str, E164, E164 | None], Progress] = {}
        # What each call has entered when it was right, whatever else the engine remembers of it.
        self.proved: set[tuple[tuple[str, E164, E164 | None], AllocationId, Side]] = set()
        self.sids = count(1)
        self.expected_verified: Counter[tuple[AllocationId, E164 | None]] = Counter()
        self.expected_failures = 0
        self._run(self._begin())

    async def _begin(self) -> None:
        database, now_us = self.stage.database, self.clock.now_us()
        made = await provisioning.add_tenant(database, self.tenant_id, self._settings(), now_us)
        self.cell = made.tenant.cell
        other_id = f"other-{self.tenant_id}"
        other = await provisioning.add_tenant(database, other_id, {}, now_us)
        numbers = [NewVirtualNumber(number) for number in self.pool]
        await provisioning.add_virtual_numbers(database, self.tenant_id, numbers, now_us)
        theirs = await provisioning.add_virtual_numbers(
            database, other_id, [NewVirtualNumber(self.other_vn)], now_us
        )
        await self._catch_up(theirs)
        assert other.tenant.cell == theirs.cell
        await self._catch_up()

    def _settings(self) -> dict[str, Any]:
        return {
            "aparty_pin_enabled": self.flags.a_pin,
            "bparty_pin_enabled": self.flags.b_pin,
            "common_pin_enabled": self.flags.common_pin,
            "deletion_time": self.flags.cool_off_s,
            "max_pin_attempts": self.call_rules.pin_attempts_max,
            "withheld_callers": "refuse" if self.call_rules.refuse_withheld else "allow",
            # The windows have tests of their own.
            "pin_failures_per_caller": "100000/1h",
            "pin_failures_per_vn": "100000/1h",
            "pin_failures_per_tenant": "100000/1h",
            "verified_caller_event_endpoint": NOBODY,
            "failed_verification_event_endpoint": NOBODY,
            "deallocation_callback_event_endpoint": NOBODY,
        }

    # ── clients ──────────────────────────────────────────────────────────────

    @rule(
        client_id=st.sampled_from(CLIENT_IDS),
        a=_new_parties,
        b=_new_parties,
        usage=_usages,
        duration_s=_durations,
    )
    def allocate(
        self, client_id: str, a: Asked, b: Asked, usage: Usage | None, duration_s: int | None
    ) -> None:
        draft = self._draft(a, b, usage, duration_s)
        now_us = self._now()
        expected = self.model.code_of_create(client_id, draft, self.flags, now_us)
        changed, code = self._run(self._create(client_id, draft))
        event(f"allocate: {code and code.name}")
        assert code is expected
        if changed is not None:
            assert changed.is_propagated
            expires_at_us = now_us + (170 * 86_400 if duration_s is None else duration_s) * SECOND_US
            held = self.model.create(
                client_id, draft, self.flags, changed.standing.allocation, expires_at_us, now_us
            )
            self._whatever_is_allocated_connects(held)

    @precondition(lambda self: self.model.held)
    @rule(
        which=st.integers(0, 99),
        a=_changed_parties,
        b=_changed_parties,
        usage=_usages,
        duration_s=st.sampled_from([None, None, 30, 600]),
    )
    def update(self, which: int, a: Asked, b: Asked, usage: Usage | None, duration_s: int | None) -> None:
        held = self._pick(which)
        draft = self._draft(a, b, usage, duration_s)
        now_us = self._now()
        changed, code = self._run(self._update(held, draft))
        event(f"update: {code and code.name}")
        if held.is_gone:
            assert code is Code.DELETED
            return
        assert code is self.model.code_of_update(held, draft, now_us)
        if changed is not None:
            assert changed.is_propagated
            expires_at_us = held.allocation.expires_at_us
            if duration_s is not None:
                expires_at_us = now_us + duration_s * SECOND_US
            self.model.update(held, draft, changed.standing.allocation, expires_at_us, now_us)
            self._whatever_is_allocated_connects(held)

    @precondition(lambda self: self.model.held)
    @rule(which=st.integers(0, 99))
    def update_with_its_own_values(self, which: int) -> None:
        held = self._pick(which)
        self._now()
        if held.is_gone:
            return
        parties = [held.allocation.party(side) for side in Side]
        a, b = (
            PartyDraft(
                numbers=[number.plus for number in party.numbers],
                virtual_numbers=[number.plus for number in party.virtual_numbers],
                pin=party.pin,
                pin_length=None if party.pin is None else len(party.pin),
            )
            for party in parties
        )
        before = self._run(self._head())
        changed, code = self._run(self._update(held, Draft(a=a, b=b, usage=held.allocation.usage)))
        assert code is None
        assert changed is not None
        assert changed.standing.allocation == held.allocation
        assert self._run(self._head()) == before

    @precondition(lambda self: self.model.held)
    @rule(which=st.integers(0, 99), is_doubled=st.booleans())
    def release(self, which: int, is_doubled: bool) -> None:
        held = self._pick(which)
        now_us = self._now()
        codes = self._run(self._release(held, 2 if is_doubled else 1))
        if held.is_gone:
            assert set(codes) == {Code.DELETED}
        else:
            assert sorted(code is None for code in codes) == [False] * is_doubled + [True]
            self.model.release(held, now_us)

    @rule()
    def ask_for_what_is_not_ours(self) -> None:
        async def ask(tenant: TenantView, name: AllocationName) -> None:
            allocating = self.stage.switchboard.allocating
            for work in (
                allocating.update(tenant, name, GreenPinRevision(Draft())),
                allocating.release(tenant, name),
                allocating.find(tenant, name),
                allocating.members(tenant, name),
            ):
                with pytest.raises(NotFound):
                    await work

        self._run(ask(self._tenant(), name_of(AllocationId(uuid4().bytes))))
        other = self.stage.switchboard.tenants.get(f"other-{self.tenant_id}")
        assert other is not None
        for held in self.model.held[:1]:
            self._run(ask(other, name_of(held.id)))

    @rule(flags=_flags)
    def change_settings(self, flags: Flags) -> None:
        self.flags = flags

        async def change() -> None:
            _, position = await provisioning.change_settings(
                self.stage.database, self.tenant_id, self._settings(), self.clock.now_us()
            )
            await self._catch_up(position)

        self._run(change())

    # ── time ─────────────────────────────────────────────────────────────────

    @rule(us=st.sampled_from([1, SECOND_US, 5 * SECOND_US, 20 * SECOND_US, 60 * SECOND_US]))
    def pass_time(self, us: int) -> None:
        self.clock.advance(us)

    @precondition(lambda self: self.model.live())
    @rule(which=st.integers(0, 99), us=st.sampled_from([-1, 0]))
    def pass_time_until_an_end(self, which: int, us: int) -> None:
        held = self._pick(which)
        wait_us = held.allocation.expires_at_us + us - self.clock.now_us()
        if 0 < wait_us < 700 * SECOND_US:
            self.clock.advance(wait_us)

    @rule()
    def sweep(self) -> None:
        """As another node would, perhaps at the same moment as ours."""
        self._run(self._sweep())

    # ── callers ──────────────────────────────────────────────────────────────

    @rule(
        sid=st.sampled_from(SIDS),
        place=st.sampled_from([0, 0, 0, 1, 1, 2]),
        caller=st.sampled_from(CALLERS),
        digits=st.sampled_from(ENTRIES),
        hop=st.sampled_from([Hop.PROMPT, Hop.PROMPT, Hop.DECISION, Hop.DECISION, Hop.DECISION, Hop.DEAF]),
        times=st.sampled_from([1, 1, 1, 2]),
    )
    def hop(self, sid: str, place: int, caller: E164 | None, digits: str, hop: Hop, times: int) -> None:
        for _ in range(times):
            self._hop(sid, self.pool[place], caller, digits, hop)

    @precondition(
        lambda self: any(held.allocation.a.pin or held.allocation.b.pin for held in self.model.live())
    )
    @rule(
        which=st.integers(0, 99),
        side=st.sampled_from(Side),
        caller=st.sampled_from(CALLERS),
        place=st.integers(0, 9),
    )
    def enter_a_pin(self, which: int, side: Side, caller: E164 | None, place: int) -> None:
        """A fresh call with a PIN that stands somewhere."""
        with_pin = [held for held in self.model.live() if held.allocation.a.pin or held.allocation.b.pin]
        party = with_pin[which % len(with_pin)].allocation.party(side)
        pin = party.pin or PINS[0]
        virtual_number = party.virtual_numbers[place % len(party.virtual_numbers)]
        sid = f"fresh-{next(self.sids)}"
        self._hop(sid, virtual_number, caller, "", Hop.DECISION)
        self._hop(sid, virtual_number, caller, "", Hop.PROMPT)
        self._hop(sid, virtual_number, caller, pin.digits, Hop.DECISION)
        self._hop(sid, virtual_number, caller, "", Hop.DECISION)

    @rule(caller=st.sampled_from(CALLERS), digits=st.sampled_from(ENTRIES))
    def dial_another_tenants_number(self, caller: E164 | None, digits: str) -> None:
        decision = self._hop("sid-1", self.other_vn, caller, digits, Hop.DECISION)
        assert decision == Refuse(Reason.UNKNOWN_VN)

    @rule(place=st.integers(0, 2), caller=st.sampled_from(CALLERS), digits=st.sampled_from(ENTRIES))
    def call_without_a_sid(self, place: int, caller: E164 | None, digits: str) -> None:
        now_us = self._now()
        asked = Caller(None, self.pool[place], caller)
        decision = self._run(self._answer(asked, Keyed(Hop.DECISION, digits)))
        call = Call(self.pool[place], caller, NoEntry(), NEW_CALL, NOT_EXCEEDED, self.call_rules)
        expected = naive_decision(call, self.model.world(), now_us)
        assert decision == (Refuse(Reason.NO_INPUT) if isinstance(expected, AskPin) else expected)

    @precondition(lambda self: self.model.live())
    @rule(which=st.integers(0, 99))
    def everybody_listed_calls(self, which: int) -> None:
        live = self.model.live()
        self._now()
        held = live[which % len(live)]
        if not held.is_gone:
            self._whatever_is_allocated_connects(held)

    # ── audits ───────────────────────────────────────────────────────────────

    def _hop(self, sid: str, virtual_number: E164, caller: E164 | None, digits: str, hop: Hop) -> Decision:
        now_us = self._now()
        key = (sid, virtual_number, caller)
        decision = self._run(self._answer(Caller(sid, virtual_number, caller), Keyed(hop, digits)))
        note(f"{sid} {virtual_number!r} {caller!r} {digits!r} {hop}: {decision}")
        self._note_what_was_proved(key, digits, hop)
        expected = self._expected(key, digits, hop, now_us)
        event(f"{type(decision).__name__} {getattr(decision, 'reason', getattr(decision, 'matched', ''))}")
        assert decision._replace(outcome=None) == expected._replace(outcome=None)
        if isinstance(decision, Connect):
            self._nobody_is_connected_who_should_not_be(key, decision)
        return decision

    def _expected(self, key: tuple[str, E164, E164 | None], digits: str, hop: Hop, now_us: int) -> Decision:
        """The naive decision, with the call's progress kept as routing.md says."""
        known = self.progress.get(key)
        _, virtual_number, caller = key
        world = self.model.world()

        def decide(entry: Any, progress: Progress) -> Decision:
            call = Call(virtual_number, caller, entry, progress, NOT_EXCEEDED, self.call_rules)
            return naive_decision(call, world, now_us)

        if known is None and isinstance(at_once := decide(NoEntry(), NEW_CALL), Connect):
            return at_once
        progress = known or NEW_CALL
        entry = entry_of(progress, digits, hop)
        expected = decide(entry, progress)
        outcome: Outcome | None = expected.outcome
        match outcome:
            case RightPin(admission=admission, is_stranger=is_stranger):
                progress = with_outcome(progress, outcome, progress.failures)
                if is_stranger:
                    self._stranger_proved(admission.allocation_id, caller, admission.side, now_us)
            case WrongPin():
                progress = with_outcome(progress, outcome, progress.failures + 1)
                self.expected_failures += 1
            case None:
                pass
            case unmatched:
                assert_never(unmatched)
        progress = after(progress, entry, expected, hop)
        self.progress[key] = progress
        return expected

    def _stranger_proved(self, id: AllocationId, caller: E164 | None, side: Side, now_us: int) -> None:
        if caller is None:
            self.expected_verified[id, None] += 1
            return
        self.expected_verified[id, caller] = 1
        self.model.join(self.model.by_id(id), caller, side, now_us)

    def _note_what_was_proved(self, key: tuple[str, E164, E164 | None], digits: str, hop: Hop) -> None:
        if hop is Hop.DEAF or key in {proved for proved, _, _ in self.proved}:
            return
        for held in self.model.live():
            for side in Side:
                party = held.allocation.party(side)
                if party.pin is not None and party.pin.digits == digits and key[1] in party.virtual_numbers:
                    self.proved.add((key, held.id, side))

    def _nobody_is_connected_who_should_not_be(
        self, key: tuple[str, E164, E164 | None], connect: Connect
    ) -> None:
        """Only inside a live allocation that lists them, remembers them, or whose PIN they entered."""
        _, virtual_number, caller = key
        held = self.model.by_id(connect.allocation_id)
        assert not held.is_gone
        own, other = held.allocation.party(connect.side), held.allocation.party(connect.side.other)
        assert held.side_of(caller) is connect.side or (key, held.id, connect.side) in self.proved
        assert held.allocation.permits(connect.side)
        assert virtual_number in own.virtual_numbers
        assert connect.caller_id in other.virtual_numbers
        assert connect.targets
        assert caller not in connect.targets
        assert all(held.side_of(target) is connect.side.other for target in connect.targets)

    def _whatever_is_allocated_connects(self, held: Held) -> None:
        """Each listed number, on each of its VNs, asked for its PIN where its side has one."""
        for side in Side:
            party, other = held.allocation.party(side), held.allocation.party(side.other)
            if not held.allocation.permits(side):
                continue
            joined = sorted(
                (
                    (member.joined_at_us, member.number)
                    for member in held.members
                    if member.side is side.other
                ),
                reverse=True,
            )
            targets = (*other.numbers, *(number for _, number in joined))
            for virtual_number in party.virtual_numbers:
                for caller in party.numbers:
                    sid = f"fresh-{next(self.sids)}"
                    decision = self._hop(sid, virtual_number, caller, "", Hop.PROMPT)
                    if party.listed_need_pin and not isinstance(decision, Refuse):
                        assert isinstance(decision, AskPin)
                        assert party.pin is not None
                        assert decision.digits_max >= len(party.pin)
                    if party.listed_need_pin:
                        assert party.pin is not None
                        decision = self._hop(sid, virtual_number, caller, party.pin.digits, Hop.DECISION)
                    if not targets:
                        assert isinstance(decision, Refuse)
                        assert decision.reason is Reason.NO_TARGET
                    else:
                        assert isinstance(decision, Connect)
                        assert (decision.allocation_id, decision.side) == (held.id, side)
                        assert decision.targets == targets

    @invariant()
    def nobody_is_on_both_sides(self) -> None:
        for held in getattr(self, "model", PlainModel([], [])).live():
            sides = [{*held.allocation.party(side).numbers} for side in Side]
            for member in held.members:
                sides[member.side].add(member.number)
            assert not sides[Side.A] & sides[Side.B]

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self._now()
            self._run(self._audit_what_is_kept())

    async def _audit_what_is_kept(self) -> None:
        """The board equals the database, and what others are told equals what happened."""
        await self._sweep()
        await self._compare_boards()
        tenant = self._tenant()
        for held in self.model.held:
            name = name_of(held.id)
            standing = await self.stage.switchboard.allocating.find(tenant, name)
            assert standing.allocation == held.allocation
            assert (standing.state.value == "vault") is held.is_gone
            if not held.is_gone:
                members = await self.stage.switchboard.allocating.members(tenant, name)
                assert {(member.number, member.side, member.joined_at_us) for member in members} == {
                    member[:3] for member in held.members
                }
        rows = await self.stage.database.read(
            lambda connection: connection.fetch(
                "SELECT kind, facts FROM event WHERE cell = $1 AND tenant_id = $2", self.cell, self.tenant_id
            )
        )
        told = Counter((row["kind"], row["facts"].get("allocation_id")) for row in rows)
        for held in self.model.held:
            assert told["deallocated", str(UUID(bytes=held.id))] == held.is_gone
        verified = Counter(
            (AllocationId(UUID(row["facts"]["allocation_id"]).bytes), row["facts"]["caller"])
            for row in rows
            if row["kind"] == "verified"
        )
        assert verified == self.expected_verified
        assert sum(row["kind"] == "verification_failed" for row in rows) == self.expected_failures
        # Or the sender would go on trying in all stories to come.
        await self.stage.database.write(
            lambda connection: connection.execute(
                "DELETE FROM event WHERE cell = $1 AND tenant_id = $2", self.cell, self.tenant_id
            )
        )

    async def _compare_boards(self) -> None:
        """A fresh board, loaded from a snapshot, has what the live one has, in every table."""
        fresh = BoardTables(self.stage.directory / f"fresh-{self.tenant_id}")
        try:

            async def read(connection: Connection) -> None:
                heads = await feed.heads(connection)
                async for cell, changes in feed.snapshot(connection):
                    fresh.load(cell, changes)
                fresh.set_positions(heads)

            await self.stage.database.read_snapshot(read)
            for cell, (n, _) in fresh.positions_by_cell().items():
                assert await self.stage.switchboard.keeper.wait_for(Position(cell, n), GIVE_UP_S)
            assert meaning_of(fresh) == meaning_of(self.stage.switchboard.keeper.tables)
        finally:
            fresh.close()

    # ── how it is done ───────────────────────────────────────────────────────

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.stage.run(work)

    def _now(self) -> int:
        now_us = self.clock.now_us()
        self.model.pass_time(now_us)
        return now_us

    def _pick(self, which: int) -> Held:
        """Mostly one that lives."""
        live = self.model.live()
        chosen = self.model.held if which % 5 == 0 or not live else live
        return chosen[which % len(chosen)]

    def _draft(self, a: Asked, b: Asked, usage: Usage | None, duration_s: int | None) -> Draft:
        return Draft(a=self._party(a), b=self._party(b), usage=usage, duration_s=duration_s)

    def _party(self, asked: Asked) -> PartyDraft:
        words = {"a VN": self.pool[2].plus, "their VN": self.other_vn.plus}
        places = {8: NONSENSE, 9: self.other_vn.plus}
        return PartyDraft(
            numbers=None if asked.numbers is None else [words.get(text, text) for text in asked.numbers],
            virtual_numbers=None
            if asked.places is None
            else [places.get(place) or self.pool[place].plus for place in asked.places],
            pin=asked.pin,
            pin_length=asked.pin_length,
        )

    def _tenant(self) -> TenantView:
        tenant = self.stage.switchboard.tenants.get(self.tenant_id)
        assert tenant is not None
        return tenant

    async def _create(self, client_id: str, draft: Draft) -> tuple[Changed | None, Code | None]:
        try:
            changed = await self.stage.switchboard.allocating.create(
                self._tenant(), GreenPinWish(client_id, draft), None, lambda _: b""
            )
        except Unacceptable as refused:
            return None, refused.fault.code
        assert isinstance(changed, Changed)
        return changed, None

    async def _update(self, held: Held, draft: Draft) -> tuple[Changed | None, Code | None]:
        allocating, revision = self.stage.switchboard.allocating, GreenPinRevision(draft)
        try:
            return await allocating.update(self._tenant(), name_of(held.id), revision), None
        except AlreadyReleased:
            return None, Code.DELETED
        except Unacceptable as refused:
            return None, refused.fault.code

    async def _release(self, held: Held, times: int) -> list[Code | None]:
        async def once() -> Code | None:
            try:
                await self.stage.switchboard.allocating.release(self._tenant(), name_of(held.id))
            except AlreadyReleased:
                return Code.DELETED
            return None

        return await asyncio.gather(*(once() for _ in range(times)))

    async def _answer(self, caller: Caller, keyed: Keyed) -> Decision:
        answering, tenant = self.stage.switchboard.answering, self._tenant()
        decision = answering.answer_at_once(tenant, caller, is_recorded=True)
        if decision is None:
            decision = await answering.answer(tenant, caller, keyed, is_recorded=True)
            # On a busy machine a join may take longer than an answer waits for it.
            await self._catch_up()
        return decision

    async def _head(self) -> int:
        heads = await self.stage.database.read(feed.heads)
        return heads[self.cell][0]

    async def _catch_up(self, position: Position | None = None) -> None:
        if position is None:
            position = Position(self.cell, await self._head())
        assert await self.stage.switchboard.keeper.wait_for(position, GIVE_UP_S)

    async def _sweep(self) -> None:
        now_us = self.clock.now_us()
        ended = await self.stage.database.read(
            lambda connection: allocations.ended_ids(connection, now_us, limit_per_cell=1_000)
        )
        for cell, ids in ended.items():

            async def release(connection: Connection, cell: int = cell, ids: list[UUID] = ids) -> None:
                await allocations.release_ended(connection, cell, ids, now_us)

            await self.stage.database.write(release)


# ── the run ──────────────────────────────────────────────────────────────────


@asynccontextmanager
async def new_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """Not the fixture: its pool lives in another loop."""
    maker = await asyncpg.connect(**postgres.connect_kwargs)
    await maker.execute("CREATE DATABASE stories")
    await maker.close()
    how: dict[str, Any] = {**postgres.connect_kwargs, "database": "stories"}
    database = Database(**how)
    await database.connect()
    try:
        await database.migrate()
        yield database
    finally:
        await database.close()


def test_whatever_is_done_in_any_order_the_answers_are_those_of_a_plain_list(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    clock = HandMovedClock()
    with asyncio.Runner() as runner:
        stopped = asyncio.Event()
        loop = runner.get_loop()

        async def host(started: asyncio.Future[tuple[Database, Switchboard]]) -> None:
            async with new_database(postgres) as database:
                node_settings = Settings(
                    data_dir=tmp_path / "data", board_dir=tmp_path / "node", propagation_timeout_s=GIVE_UP_S
                )
                async with running_switchboard(node_settings, database, None, clock) as switchboard:
                    started.set_result((database, switchboard))
                    await stopped.wait()

        async def start() -> tuple[asyncio.Task[None], Database, Switchboard]:
            started: asyncio.Future[tuple[Database, Switchboard]] = loop.create_future()
            hosting = loop.create_task(host(started))
            waited: list[asyncio.Future[Any]] = [hosting, started]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if hosting.done():
                hosting.result()
            return hosting, *started.result()

        async def stop(hosting: asyncio.Task[None]) -> None:
            stopped.set()
            await hosting

        hosting, database, switchboard = runner.run(start())
        stage = Stage(runner, database, switchboard, clock, tmp_path, count(1))

        class ToldStory(Story):
            def __init__(self) -> None:
                self.stage = stage
                super().__init__()

        try:
            run_state_machine_as_test(
                ToldStory,
                settings=settings(
                    max_examples=STORIES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stop(hosting))
