"""Everything that clients, callers and time can do to a tenant, in any order, against the real
switchboard on a real database; a plain list of what is allocated audits every answer.

CORDBOARD_SOAK=20 plays twenty times as many stories.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar, assert_never
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Code, Draft, Generation, PartyDraft, Unacceptable
from cordboard.routing.greenvn import GreenVnDraft, GreenVnParty, Preferences
from cordboard.routing.model import (
    NEW_CALL,
    NOT_EXCEEDED,
    Allocation,
    AllocationId,
    AskPin,
    Call,
    CallRules,
    Connect,
    Decision,
    EmptyEntry,
    Entry,
    NoEntry,
    Outcome,
    PinEntry,
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
from cordboard.routing.progress import Hop, after, digest_of, entry_of, with_outcome
from cordboard.routing.second_generation import SecondDraft
from cordboard.storage import allocations, feed, provisioning
from cordboard.storage.allocations import AllocationName, AlreadyReleased, NotFound
from cordboard.storage.database import Connection
from cordboard.storage.embedded import EmbeddedPostgres
from cordboard.storage.feed import Position
from cordboard.storage.provisioning import NewVirtualNumber
from cordboard.switchboard.allocating import Changed
from cordboard.switchboard.answering import Caller, Keyed, Undecided
from cordboard.switchboard.loading import load_board
from cordboard.switchboard.second_wishes import SecondRevision, SecondWish
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import (
    GreenPinRevision,
    GreenPinWish,
    GreenVnPartiesRevision,
    GreenVnSwap,
    GreenVnWish,
    Revision,
    Wish,
)
from cordboard.tables.board import BoardTables
from tests.routing.naive_model import naive_decision
from tests.storage.boards import meaning_of
from tests.switchboard import plain_greenpin, plain_greenvn, plain_second, story_dice
from tests.switchboard.plain_model import NONSENSE, Flags, Held, PlainModel
from tests.switchboard.stage import GIVE_UP_S, Stage, standing_stage
from tests.switchboard.story_dice import (
    A_VN,
    A_VN_OF_THEIRS,
    CALLERS,
    CLIENT_IDS,
    ENTRIES,
    NO_NUMBER,
    OUTSIDER,
    POOL,
    SIDS,
    THEIR_VN,
    Asked,
    Opening,
)

SOAK: Final = int(os.environ.get("CORDBOARD_SOAK", "1"))
STORIES: Final = 60 * SOAK
STEPS: Final = 30

# Not a URL: nothing goes over the network.
NOBODY: Final = "nobody"
# What is asked of every caller on every VN: nothing keyed in, nothing once more, and each of the entries.
ALL_ENTRIES: Final[tuple[Entry, ...]] = (
    NoEntry(),
    EmptyEntry(),
    *(PinEntry(Pin.parse(digits), digest_of(digits)) for digits in ENTRIES if digits),
)

FIRST_GREENPIN: Final = (Product.GREENPIN, Generation.FIRST)
FIRST_GREENVN: Final = (Product.GREENVN, Generation.FIRST)

Result = TypeVar("Result")


def name_of(held: Held) -> AllocationName:
    return AllocationName(UUID(bytes=held.id), held.product, held.generation)


def revision_of_nothing(name: AllocationName) -> Revision:
    if name.generation is Generation.SECOND:
        return SecondRevision(SecondDraft())
    if name.product is Product.GREENVN:
        return GreenVnPartiesRevision(GreenVnDraft())
    return GreenPinRevision(Draft())


def nowhere(postal_code: str) -> str | None:
    raise AssertionError(f"no story names a postal code, but {postal_code} was looked up")


class Story(RuleBasedStateMachine):
    """One tenant's life.

    No rule has a precondition: which VNs and PINs the engine picks is not the dice's to say, and a story that
    is told again must draw the same. A rule that finds nothing to act upon does nothing.
    """

    stage: Stage

    @initialize(
        flags=story_dice.flags,
        attempts_max=st.sampled_from([2, 3]),
        refuse_withheld=st.sampled_from([False] * 4 + [True]),
        openings=story_dice.openings,
    )
    def begin(self, flags: Flags, attempts_max: int, refuse_withheld: bool, openings: list[Opening]) -> None:
        self.clock = self.stage.clock
        self.clock.advance(SECOND_US)
        number = next(self.stage.numbers)
        self.tenant_id = f"tenant-{number}"
        self.pool = [E164(918_000_000_000 + number * 10 + place) for place in range(len(POOL))]
        self.other_vn = E164(918_000_000_000 + number * 10 + 9)
        self.call_rules = CallRules(attempts_max, refuse_withheld)
        self.flags = flags
        self.model = PlainModel(dict(zip(self.pool, POOL, strict=True)), [self.other_vn])
        self.progress: dict[tuple[str, E164, E164 | None], Progress] = {}
        # What each call has entered when it was right, whatever else the engine remembers of it.
        self.proved: set[tuple[tuple[str, E164, E164 | None], AllocationId, Side]] = set()
        self.sids = count(1)
        self.expected_verified: Counter[tuple[AllocationId, E164 | None]] = Counter()
        self.expected_failures = 0
        self._run(self._begin())
        for opening in openings:
            getattr(self, opening.rule)(**opening.given)

    async def _begin(self) -> None:
        database, now_us = self.stage.database, self.clock.now_us()
        made = await provisioning.add_tenant(database, self.tenant_id, self._settings(), now_us)
        self.cell = made.tenant.cell
        other_id = f"other-{self.tenant_id}"
        other = await provisioning.add_tenant(database, other_id, {}, now_us)
        numbers = [
            NewVirtualNumber(number, line.region, line.type) for number, line in self.model.pool.items()
        ]
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
            "vn_sharing": self.flags.vn_sharing.value,
            "vn_choice": self.flags.vn_choice.value,
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

    # ── clients of GreenPin, first generation ────────────────────────────────

    @rule(
        client_id=st.sampled_from(CLIENT_IDS),
        a=story_dice.new_parties,
        b=story_dice.new_parties,
        usage=story_dice.usages,
        duration_s=story_dice.durations,
    )
    def allocate(
        self, client_id: str, a: Asked, b: Asked, usage: Usage | None, duration_s: int | None
    ) -> None:
        draft = self._draft(a, b, usage, duration_s)
        now_us = self._now()
        wanted = plain_greenpin.read_create(self.model, draft, self.flags)
        made = self._make(
            GreenPinWish(client_id, draft),
            self.model.code_of_create(Product.GREENPIN, client_id, wanted, now_us),
        )
        if made is None:
            return
        assert wanted.becomes is not None
        lengths = plain_greenpin.lengths_of(draft, is_common=self.flags.common_pin)
        becomes = plain_greenpin.with_drawn_pins(self.model, wanted.becomes, made, lengths, None, now_us)
        assert made == becomes._replace(id=made.id, expires_at_us=self._end_of(duration_s, now_us))
        self._whatever_is_allocated_connects(self.model.put_in(Held(client_id, made, self.flags.cool_off_s)))

    @rule(
        which=st.integers(0, 99),
        a=story_dice.changed_parties,
        b=story_dice.changed_parties,
        usage=story_dice.usages,
        duration_s=story_dice.new_durations,
    )
    def update(self, which: int, a: Asked, b: Asked, usage: Usage | None, duration_s: int | None) -> None:
        now_us = self._now()
        held = self._pick(which, *FIRST_GREENPIN)
        if held is None:
            return
        draft = self._draft(a, b, usage, duration_s)
        wanted = plain_greenpin.read_update(self.model, held, draft)
        expected = self.model.code_of_update(held, wanted, now_us)
        becomes = self._change(held, GreenPinRevision(draft), expected)
        if becomes is None:
            return
        assert wanted.becomes is not None
        lengths = plain_greenpin.lengths_of(draft, is_common=held.allocation.common_pin)
        full = plain_greenpin.with_drawn_pins(self.model, wanted.becomes, becomes, lengths, held, now_us)
        if duration_s is not None:
            full = full._replace(expires_at_us=self._end_of(duration_s, now_us))
        self._changed(held, full, becomes, now_us)

    # ── clients of GreenVN, first generation ─────────────────────────────────

    @rule(client_id=st.sampled_from(CLIENT_IDS), asked=story_dice.greenvn_drafts)
    def allocate_greenvn(self, client_id: str, asked: GreenVnDraft) -> None:
        draft = self._greenvn_draft(asked)
        now_us = self._now()
        self._sweep_lines_borne_alone()
        wanted = plain_greenvn.read_create(self.model, draft)
        expected = plain_greenvn.code_of_create(self.model, client_id, wanted, draft.preferences, now_us)
        made = self._make(GreenVnWish(client_id, draft, nowhere), expected)
        if made is None:
            return
        assert wanted.becomes is not None
        [picked] = made.a.virtual_numbers
        assert picked in plain_greenvn.right_ones(self.model, wanted.becomes, draft.preferences, None, now_us)
        becomes = plain_greenvn.on(wanted.becomes, picked)
        assert made == becomes._replace(id=made.id, expires_at_us=self._end_of(draft.duration_s, now_us))
        self._whatever_is_allocated_connects(self.model.put_in(Held(client_id, made, self.flags.cool_off_s)))

    @rule(which=st.integers(0, 99), asked=story_dice.call_parties)
    def change_call_parties(self, which: int, asked: GreenVnDraft) -> None:
        now_us = self._now()
        held = self._pick(which, *FIRST_GREENVN)
        if held is None:
            return
        draft = self._greenvn_draft(asked)
        wanted = plain_greenvn.read_call_party(self.model, held, draft)
        expected = self.model.code_of_update(held, wanted, now_us)
        becomes = self._change(held, GreenVnPartiesRevision(draft), expected)
        if becomes is not None:
            assert wanted.becomes is not None
            self._changed(held, wanted.becomes, becomes, now_us)

    @rule(which=st.integers(0, 99), asked=story_dice.preferences)
    def swap(self, which: int, asked: Preferences) -> None:
        now_us = self._now()
        held = self._pick(which, *FIRST_GREENVN)
        if held is None:
            return
        self._sweep_lines_borne_alone()
        preferences = self._preferences(asked)
        expected = plain_greenvn.code_of_swap(self.model, held, preferences, now_us)
        becomes = self._change(held, GreenVnSwap(preferences, (), nowhere), expected)
        if becomes is not None:
            [picked] = becomes.a.virtual_numbers
            right_ones = plain_greenvn.right_ones(self.model, held.allocation, preferences, held, now_us)
            assert picked in right_ones
            self._changed(held, plain_greenvn.on(held.allocation, picked), becomes, now_us)

    # ── clients of the second generation ─────────────────────────────────────

    @rule(product=st.sampled_from(Product), asked=story_dice.second_drafts)
    def allocate_second(self, product: Product, asked: SecondDraft) -> None:
        draft = self._second_draft(asked, product)
        now_us = self._now()
        wanted = plain_second.read_create(self.model, product, draft, self.flags, now_us)
        expected = self.model.code_of_create(product, None, wanted, now_us)
        made = self._make(SecondWish(product, draft), expected)
        if made is None:
            return
        assert wanted.becomes is not None
        becomes = wanted.becomes._replace(id=made.id)
        becomes = plain_greenpin.with_drawn_pins(self.model, becomes, made, {Side.B: 4}, None, now_us)
        assert made == becomes
        attempts = (draft.pin_attempts_max or 3) if product is Product.GREENPIN else None
        held = Held(None, made, self.flags.cool_off_s, Generation.SECOND, attempts)
        self._whatever_is_allocated_connects(self.model.put_in(held))

    @rule(
        which=st.integers(0, 99),
        update=story_dice.second_updates,
        call_party=story_dice.second_call_parties,
        swap=story_dice.second_swaps,
        is_swap=st.booleans(),
    )
    def update_second(
        self, which: int, update: SecondDraft, call_party: SecondDraft, swap: SecondDraft, is_swap: bool
    ) -> None:
        now_us = self._now()
        held = self._pick(which, generation=Generation.SECOND)
        if held is None:
            return
        asked = update if held.product is Product.GREENPIN else swap if is_swap else call_party
        draft = self._second_draft(asked, held.product)
        wanted = plain_second.read_update(self.model, held, draft, now_us)
        expected = self.model.code_of_update(held, wanted, now_us)
        becomes = self._change(held, SecondRevision(draft), expected)
        if becomes is not None:
            assert wanted.becomes is not None
            if held.pin_attempts_max is not None:
                held.pin_attempts_max = draft.pin_attempts_max or held.pin_attempts_max
            held.count_failures(0)
            self._changed(held, wanted.becomes, becomes, now_us)

    # ── clients of all of them ───────────────────────────────────────────────

    @rule(which=st.integers(0, 99))
    def update_with_its_own_values(self, which: int) -> None:
        self._now()
        held = self._pick(which)
        if held is None or held.is_gone or held.pin_failures:
            return
        before = self._run(self._head())
        for revision in self._own_values(held):
            changed, code = self._run(self._update(held, revision))
            assert code is None
            assert changed is not None
            assert changed.standing.allocation == held.allocation
        assert self._run(self._head()) == before

    @rule(which=st.integers(0, 99), is_doubled=st.booleans())
    def release(self, which: int, is_doubled: bool) -> None:
        held = self._pick(which)
        if held is None:
            return
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
                allocating.update(tenant, name, revision_of_nothing(name)),
                allocating.release(tenant, name),
                allocating.find(tenant, name),
                allocating.members(tenant, name),
            ):
                with pytest.raises(NotFound):
                    await work

        for product in Product:
            for generation in Generation:
                self._run(ask(self._tenant(), AllocationName(uuid4(), product, generation)))
        other = self.stage.switchboard.tenants.get(f"other-{self.tenant_id}")
        assert other is not None
        for held in self.model.held[:1]:
            name = name_of(held)
            self._run(ask(other, name))
            # Ours, but not by that name.
            another = Product.GREENVN if held.product is Product.GREENPIN else Product.GREENPIN
            self._run(ask(self._tenant(), name._replace(product=another)))
            later = Generation.SECOND if held.generation is Generation.FIRST else Generation.FIRST
            self._run(ask(self._tenant(), name._replace(generation=later)))

    @rule(
        place=st.integers(0, len(POOL) - 1),
        state=st.sampled_from([(False, False)] * 3 + [(True, False)] * 2 + [(False, True), (True, True)]),
    )
    def change_a_line(self, place: int, state: tuple[bool, bool]) -> None:
        """Drained or reserved, or open again."""
        is_drained, is_reserved = state
        virtual_number = self.pool[place]
        self.model.set_line_state(virtual_number, is_drained=is_drained, is_reserved=is_reserved)

        async def change() -> None:
            position = await provisioning.set_virtual_number_state(
                self.stage.database,
                self.tenant_id,
                virtual_number,
                self.clock.now_us(),
                is_drained=is_drained,
                is_reserved=is_reserved,
            )
            await self._catch_up(position)

        self._run(change())

    @rule(flags=story_dice.flags)
    def change_settings(self, flags: Flags) -> None:
        self.flags = flags

        async def change() -> None:
            _, position = await provisioning.change_settings(
                self.stage.database, self.tenant_id, self._settings(), self.clock.now_us()
            )
            await self._catch_up(position)

        self._run(change())

    # ── time ─────────────────────────────────────────────────────────────────

    @rule(us=st.sampled_from([1, SECOND_US, 5 * SECOND_US, 20 * SECOND_US, 60 * SECOND_US, 300 * SECOND_US]))
    def pass_time(self, us: int) -> None:
        self.clock.advance(us)

    @rule(which=st.integers(0, 99), us=st.sampled_from([-1, 0]))
    def pass_time_until_an_end(self, which: int, us: int) -> None:
        held = self._pick(which)
        if held is None:
            return
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

    @rule(
        which=st.integers(0, 99),
        side=st.sampled_from(Side),
        caller=st.sampled_from(CALLERS),
        place=st.integers(0, 9),
    )
    def enter_a_pin(self, which: int, side: Side, caller: E164 | None, place: int) -> None:
        """A fresh call with a PIN that stands somewhere."""
        with_pins = self._with_pins()
        if not with_pins:
            return
        allocation = with_pins[which % len(with_pins)].allocation
        party = allocation.party(side if allocation.party(side).pins else side.other)
        pin = party.pins[place % len(party.pins)]
        virtual_number = party.virtual_numbers[place % len(party.virtual_numbers)]
        sid = f"fresh-{next(self.sids)}"
        self._hop(sid, virtual_number, caller, "", Hop.DECISION)
        self._hop(sid, virtual_number, caller, "", Hop.PROMPT)
        self._hop(sid, virtual_number, caller, pin.digits, Hop.DECISION)
        self._hop(sid, virtual_number, caller, "", Hop.DECISION)

    @rule(which=st.integers(0, 99), who=st.integers(0, 9), times=st.integers(1, 3))
    def guess_wrongly(self, which: int, who: int, times: int) -> None:
        """By somebody whose guesses count: one listed in `to`, or withheld; a stranger's do not."""
        that_lock = self._that_lock()
        if not that_lock:
            return
        allocation = that_lock[which % len(that_lock)].allocation
        guessers = (*allocation.b.numbers, None, *allocation.b.numbers, None, OUTSIDER)
        caller = guessers[who % len(guessers)]
        for _ in range(times):
            sid = f"fresh-{next(self.sids)}"
            self._hop(sid, allocation.b.virtual_numbers[0], caller, "9", Hop.DECISION)

    @rule()
    def everybody_calls_everywhere(self) -> None:
        """Each caller, on each VN, with each entry, for the first time; nothing is recorded."""
        now_us = self._now()
        world, tenant, answering = self.model.world(), self._tenant(), self.stage.switchboard.answering
        for virtual_number in self.pool:
            for caller in CALLERS:
                for entry in ALL_ENTRIES:
                    explained, _ = answering.explain(tenant, virtual_number, caller, entry, now_us)
                    call = Call(virtual_number, caller, entry, NEW_CALL, NOT_EXCEEDED, self.call_rules)
                    assert explained.decision == naive_decision(call, world, now_us), (call, explained)

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

    @rule(which=st.integers(0, 99))
    def everybody_listed_calls(self, which: int) -> None:
        self._now()
        if live := self.model.live():
            held = live[which % len(live)]
            self._whatever_is_allocated_connects(held)

    # ── audits ───────────────────────────────────────────────────────────────

    def _hop(self, sid: str, virtual_number: E164, caller: E164 | None, digits: str, hop: Hop) -> Decision:
        now_us = self._now()
        key = (sid, virtual_number, caller)
        decision = self._run(self._answer(Caller(sid, virtual_number, caller), Keyed(hop, digits)))
        note(f"{sid} {virtual_number!r} {caller!r} {digits!r} {hop}: {decision}")
        self._note_what_was_proved(key, digits, hop)
        expected = self._expected(key, digits, hop, now_us, decision)
        event(f"{type(decision).__name__} {getattr(decision, 'reason', getattr(decision, 'matched', ''))}")
        assert decision._replace(outcome=None) == expected._replace(outcome=None)
        if isinstance(decision, Connect):
            self._nobody_is_connected_who_should_not_be(key, decision)
        return decision

    def _expected(
        self,
        key: tuple[str, E164, E164 | None],
        digits: str,
        hop: Hop,
        now_us: int,
        answered: Decision,
    ) -> Decision:
        """The naive decision, with the call's progress kept as routing.md says."""
        known = self.progress.get(key)
        _, virtual_number, caller = key

        def decide(entry: Entry, progress: Progress) -> Decision:
            call = Call(virtual_number, caller, entry, progress, NOT_EXCEEDED, self.call_rules)
            return naive_decision(call, self.model.world(), now_us)

        if known is None and isinstance(at_once := decide(NoEntry(), NEW_CALL), Connect):
            return at_once
        progress = known or NEW_CALL
        entry = entry_of(progress, digits, hop)
        expected = decide(entry, progress)
        outcome: Outcome | None = expected.outcome
        match outcome:
            case RightPin(admission=admission, is_stranger=is_stranger):
                progress = with_outcome(progress, outcome, progress.failures)
                if outcome.resets_lock:
                    self.model.forget_failures(admission.allocation_id)
                if is_stranger:
                    self._stranger_proved(admission.allocation_id, caller, admission.side, now_us)
            case WrongPin():
                progress = with_outcome(progress, outcome, progress.failures + 1)
                self.expected_failures += 1
                if outcome.counts_against is not None:
                    self.model.count_a_failure(outcome.counts_against)
                    # The guess that locks is answered when it is on record, and mostly so is the lock; an
                    # answer does not wait longer than a moment for that.
                    anew = decide(NoEntry(), progress)
                    if answered == anew:
                        expected = anew
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
                if Pin.parse(digits) in party.pins and key[1] in party.virtual_numbers:
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
                    if held.allocation.is_locked and side is Side.B:
                        assert decision == Refuse(Reason.LOCKED, held.id)
                        continue
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
        for held in getattr(self, "model", PlainModel({}, [])).live():
            sides = [{*held.allocation.party(side).numbers} for side in Side]
            for member in held.members:
                sides[member.side].add(member.number)
            assert not sides[Side.A] & sides[Side.B]

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.everybody_calls_everywhere()
            self._run(self._audit_what_is_kept())

    async def _audit_what_is_kept(self) -> None:
        """The board equals the database, and what others are told equals what happened."""
        await self._sweep()
        await self._compare_boards()
        tenant = self._tenant()
        for held in self.model.held:
            name = name_of(held)
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
            is_told = held.is_gone and (held.product is Product.GREENPIN or held.has_expired)
            assert told["deallocated", str(UUID(bytes=held.id))] == is_told
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
            await load_board(self.stage.database, fresh, allocations_per_part=3, rows_per_part=7)
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

    def _pick(
        self, which: int, product: Product | None = None, generation: Generation | None = None
    ) -> Held | None:
        """Mostly one that lives."""
        chosen = self.model.live(product, generation)
        if which % 5 == 0 or not chosen:
            chosen = [
                held
                for held in self.model.held
                if product in (None, held.product) and generation in (None, held.generation)
            ]
        return chosen[which % len(chosen)] if chosen else None

    def _sweep_lines_borne_alone(self) -> None:
        """The board does not see that what had a VN alone has ended: until the sweep, half a second later,
        that VN is picked only where no other is free, however well it would fit. The model does not wait."""
        if any(held.has_expired and held.allocation.is_exclusive for held in self.model.held):
            self._run(self._sweep())
            self._run(self._catch_up())

    def _with_pins(self) -> list[Held]:
        return [held for held in self.model.live() if held.allocation.a.pins or held.allocation.b.pins]

    def _that_lock(self) -> list[Held]:
        return [held for held in self._with_pins() if held.allocation.is_exclusive]

    def _draft(self, a: Asked, b: Asked, usage: Usage | None, duration_s: int | None) -> Draft:
        return Draft(a=self._party(a), b=self._party(b), usage=usage, duration_s=duration_s)

    def _party(self, asked: Asked) -> PartyDraft:
        return PartyDraft(
            numbers=self._people(asked.numbers),
            virtual_numbers=None if asked.places is None else [self._line(place) for place in asked.places],
            pin=asked.pin,
            pin_length=asked.pin_length,
        )

    def _greenvn_draft(self, asked: GreenVnDraft) -> GreenVnDraft:
        return replace(
            asked,
            a=replace(asked.a, numbers=self._people(asked.a.numbers)),
            b=replace(asked.b, numbers=self._people(asked.b.numbers)),
            preferences=self._preferences(asked.preferences),
        )

    def _preferences(self, asked: Preferences) -> Preferences:
        place = asked.virtual_number
        return replace(asked, virtual_number=None if place is None else self._line(int(place)))

    def _second_draft(self, asked: SecondDraft, product: Product) -> SecondDraft:
        place = asked.caller_id_number
        return replace(
            asked,
            caller_id_number=None if place is None else self._line(int(place)),
            from_numbers=self._people(asked.from_numbers),
            to_numbers=self._people(asked.to_numbers),
            pin_attempts_max=asked.pin_attempts_max if product is Product.GREENPIN else None,
        )

    def _people(self, texts: Sequence[str] | None) -> list[str] | None:
        words = {A_VN: self.pool[2].plus, A_VN_OF_THEIRS: self.other_vn.plus}
        return None if texts is None else [words.get(text, text) for text in texts]

    def _line(self, place: int) -> str:
        return {NO_NUMBER: NONSENSE, THEIR_VN: self.other_vn.plus}.get(place) or self.pool[place].plus

    def _own_values(self, held: Held) -> list[Revision]:
        """Updates that name what is there already."""
        allocation = held.allocation
        a, b = ([number.plus for number in allocation.party(side).numbers] for side in Side)
        line = allocation.a.virtual_numbers[0].plus
        if held.generation is Generation.SECOND:
            revisions: list[Revision] = [SecondRevision(SecondDraft(from_numbers=a, to_numbers=b))]
            if held.product is Product.GREENVN:
                revisions.append(SecondRevision(SecondDraft(caller_id_number=line)))
            return revisions
        if held.product is Product.GREENVN:
            parties = (GreenVnParty(a, allocation.a.pins), GreenVnParty(b, allocation.b.pins))
            return [
                GreenVnPartiesRevision(GreenVnDraft(*parties, usage=allocation.usage)),
                GreenVnSwap(Preferences(virtual_number=line), (), nowhere),
            ]
        a_party, b_party = (
            PartyDraft(
                numbers=numbers,
                virtual_numbers=[number.plus for number in party.virtual_numbers],
                pin=party.pin,
                pin_length=None if party.pin is None else len(party.pin),
            )
            for party, numbers in ((allocation.a, a), (allocation.b, b))
        )
        return [GreenPinRevision(Draft(a_party, b_party, usage=allocation.usage))]

    def _end_of(self, duration_s: int | None, now_us: int) -> int:
        return now_us + (170 * 86_400 if duration_s is None else duration_s) * SECOND_US

    def _tenant(self) -> TenantView:
        tenant = self.stage.switchboard.tenants.get(self.tenant_id)
        assert tenant is not None
        return tenant

    def _make(self, wish: Wish, expected: Code | None) -> Allocation | None:
        changed, code = self._run(self._create(wish))
        event(f"allocate {type(wish).__name__}: {code and code.name}")
        assert code is expected
        if changed is None:
            return None
        assert changed.is_propagated
        return changed.standing.allocation

    def _change(self, held: Held, revision: Revision, expected: Code | None) -> Allocation | None:
        changed, code = self._run(self._update(held, revision))
        event(f"update {type(revision).__name__}: {code and code.name}")
        assert code is (Code.DELETED if held.is_gone else expected)
        if changed is None:
            return None
        assert changed.is_propagated
        return changed.standing.allocation

    def _changed(self, held: Held, expected: Allocation, becomes: Allocation, now_us: int) -> None:
        assert becomes == expected
        self.model.change(held, becomes, now_us)
        self._whatever_is_allocated_connects(held)

    async def _create(self, wish: Wish) -> tuple[Changed | None, Code | None]:
        allocating = self.stage.switchboard.allocating
        try:
            return await allocating.create_without_key(self._tenant(), wish), None
        except Unacceptable as refused:
            return None, refused.fault.code

    async def _update(self, held: Held, revision: Revision) -> tuple[Changed | None, Code | None]:
        allocating = self.stage.switchboard.allocating
        try:
            return await allocating.update(self._tenant(), name_of(held), revision), None
        except AlreadyReleased:
            return None, Code.DELETED
        except Unacceptable as refused:
            return None, refused.fault.code

    async def _release(self, held: Held, times: int) -> list[Code | None]:
        async def once() -> Code | None:
            try:
                await self.stage.switchboard.allocating.release(self._tenant(), name_of(held))
            except AlreadyReleased:
                return Code.DELETED
            return None

        return await asyncio.gather(*(once() for _ in range(times)))

    async def _answer(self, caller: Caller, keyed: Keyed) -> Decision:
        answering, tenant = self.stage.switchboard.answering, self._tenant()
        decision = answering.answer_at_once(tenant, caller, is_recorded=True)
        if isinstance(decision, Undecided):
            decision = await answering.answer(tenant, caller, keyed, decision, is_recorded=True)
            # What follows from an outcome is told behind the answer, and then has to reach the board.
            await self.stage.switchboard.recording.telling.flush()
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


def test_whatever_is_done_in_any_order_the_answers_are_those_of_a_plain_list(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with standing_stage(postgres, tmp_path) as stage:

        class ToldStory(Story):
            def __init__(self) -> None:
                self.stage = stage
                super().__init__()

        run_state_machine_as_test(
            ToldStory,
            settings=settings(
                max_examples=STORIES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
