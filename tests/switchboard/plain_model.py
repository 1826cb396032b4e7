"""What is allocated, as a plain list: an independent account of what requests and calls must do to it.

Nothing here is shared with routing/allocate.py or storage/: requests are judged by reading routing.md
over the list, and calls by the naive decision of tests/routing over the same list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import PRECEDENCE, Code, Draft, PartyDraft
from cordboard.routing.model import Allocation, AllocationId, Party, Product, Side, Usage
from cordboard.routing.numbers import E164, Pin
from tests.routing.naive_model import Member, Row, World

NONSENSE: Final = "no number"
FOREIGN: Final = "+14155550100"

DRAWN: Final = Pin("000000000")
"""Stands for a PIN that the engine draws; the tests give none of nine digits."""


@dataclass(frozen=True)
class Flags:
    """What the model reads of a tenant's settings."""

    a_pin: bool = True
    b_pin: bool = True
    common_pin: bool = False
    cool_off_s: int = 0

    def pin_enabled(self, side: Side) -> bool:
        return self.a_pin if side is Side.A else self.b_pin


@dataclass
class Held:
    """One allocation that was made, with whoever joined it."""

    client_id: str
    allocation: Allocation
    cool_off_s: int
    members: list[Member] = field(default_factory=list)
    is_gone: bool = False

    @property
    def id(self) -> AllocationId:
        return self.allocation.id

    def row(self) -> Row:
        allocation = self.allocation._replace(has_members=bool(self.members))
        return Row(allocation, tuple(self.members))

    def side_of(self, number: E164 | None) -> Side | None:
        """Where the number is listed or a member."""
        for side in Side:
            joined = (member.number for member in self.members if member.side is side)
            if number is not None and number in (*self.allocation.party(side).numbers, *joined):
                return side
        return None

    def routes(self) -> Iterable[tuple[E164, E164, bool]]:
        """(VN, number, needs a PIN)."""
        for side in Side:
            party = self.allocation.party(side)
            for virtual_number in party.virtual_numbers:
                for number in party.numbers:
                    yield virtual_number, number, party.listed_need_pin
            for member in self.members:
                if member.side is side:
                    for virtual_number in member.virtual_numbers:
                        yield virtual_number, member.number, party.listed_need_pin


def pins_of(allocation: Allocation) -> set[tuple[E164, str]]:
    """Each PIN on each VN where it may be entered."""
    pins = set()
    for side in Side:
        party = allocation.party(side)
        if party.pin is not None:
            virtual_numbers = set(party.virtual_numbers)
            if allocation.common_pin:
                virtual_numbers |= set(allocation.party(side.other).virtual_numbers)
            pins |= {(virtual_number, party.pin.digits) for virtual_number in virtual_numbers}
    return pins


def first(codes: set[Code]) -> Code | None:
    return min(codes, key=PRECEDENCE.index, default=None)


class Wanted:
    """A request as the model reads it: the codes that it breaks by itself, and what it would become."""

    def __init__(self, codes: set[Code], becomes: Allocation | None) -> None:
        self.codes = codes
        self.becomes = becomes


class PlainModel:
    def __init__(self, pool: Iterable[E164], others_pool: Iterable[E164]) -> None:
        self.pool = frozenset(pool)
        self.provisioned = self.pool | frozenset(others_pool)
        self.held: list[Held] = []
        # (VN, PIN) → whose it was, and until when nobody else gets it.
        self.cooling: dict[tuple[E164, str], tuple[AllocationId, int]] = {}

    # ── what stands ──────────────────────────────────────────────────────────

    def pass_time(self, now_us: int) -> None:
        for held in self.held:
            if not held.is_gone and not held.allocation.is_live(now_us):
                self._end(held, held.allocation.expires_at_us)

    def live(self) -> list[Held]:
        return [held for held in self.held if not held.is_gone]

    def by_id(self, id: AllocationId) -> Held:
        return next(held for held in self.held if held.id == id)

    def world(self) -> World:
        return World(self.pool, tuple(held.row() for held in self.live()))

    # ── requests ─────────────────────────────────────────────────────────────

    def code_of_create(self, client_id: str, draft: Draft, flags: Flags, now_us: int) -> Code | None:
        wanted = self._read_create(draft, flags)
        codes = set(wanted.codes)
        if any(held.client_id == client_id for held in self.live()):
            codes.add(Code.CLIENT_ID_TAKEN)
        if wanted.becomes is not None and self._is_in_the_way(wanted.becomes, None, now_us):
            codes.add(Code.PIN_OR_NUMBER_TAKEN)
        # What is wrong with the body is found before anything is looked up.
        return first(wanted.codes) if wanted.becomes is None else first(codes)

    def create(
        self, client_id: str, draft: Draft, flags: Flags, made: Allocation, expires_at_us: int, now_us: int
    ) -> Held:
        """Take in what was answered, and hold it against what was asked for."""
        becomes = self._read_create(draft, flags).becomes
        assert becomes is not None
        lengths = {side: draft.party(side).pin_length or 4 for side in Side}
        if flags.common_pin:
            lengths = dict.fromkeys(Side, draft.a.pin_length or draft.b.pin_length or 4)
        becomes = self._with_drawn_pins(becomes, made, lengths, None, now_us)
        assert made == becomes._replace(id=made.id, expires_at_us=expires_at_us)
        held = Held(client_id, made, flags.cool_off_s)
        self.held.append(held)
        for key in pins_of(made):
            self.cooling.pop(key, None)
        return held

    def code_of_update(self, held: Held, draft: Draft, now_us: int) -> Code | None:
        wanted = self._read_update(held, draft)
        if wanted.becomes is None:
            return first(wanted.codes)
        if wanted.becomes == held.allocation:
            return None
        if self._is_in_the_way(wanted.becomes, held, now_us):
            return Code.PIN_OR_NUMBER_TAKEN
        return first(wanted.codes)

    def update(self, held: Held, draft: Draft, becomes: Allocation, expires_at_us: int, now_us: int) -> None:
        was = held.allocation
        wanted = self._read_update(held, draft).becomes
        assert wanted is not None
        lengths = {side: draft.party(side).pin_length or 4 for side in Side}
        if was.common_pin:
            lengths = dict.fromkeys(Side, draft.a.pin_length or draft.b.pin_length or 4)
        wanted = self._with_drawn_pins(wanted, becomes, lengths, held, now_us)
        assert becomes == wanted._replace(expires_at_us=expires_at_us)
        held.allocation = becomes
        for key in pins_of(was) - pins_of(becomes):
            self._cool(key, held, now_us)
        for key in pins_of(becomes):
            self.cooling.pop(key, None)
        self._members_follow(held, was)

    def release(self, held: Held, now_us: int) -> None:
        self._end(held, now_us)

    # ── joining ──────────────────────────────────────────────────────────────

    def join(self, held: Held, number: E164, side: Side, now_us: int) -> bool:
        """Whether the caller is remembered."""
        if held.side_of(number) is not None:
            return False
        party = held.allocation.party(side)
        routes = [(virtual_number, number, party.listed_need_pin) for virtual_number in party.virtual_numbers]
        if not all(self._has_room(route, held) for route in routes):
            return False
        held.members.append(Member(number, side, now_us, party.virtual_numbers))
        return True

    def _members_follow(self, held: Held, was: Allocation) -> None:
        members, held.members = held.members, []
        becomes = held.allocation
        for member in members:
            party = becomes.party(member.side)
            if party.pin != was.party(member.side).pin:
                continue
            if member.number in (*becomes.a.numbers, *becomes.b.numbers):
                continue
            where = tuple(
                virtual_number
                for virtual_number in party.virtual_numbers
                if virtual_number in member.virtual_numbers
                or self._has_room((virtual_number, member.number, party.listed_need_pin), held)
            )
            if where:
                held.members.append(member._replace(virtual_numbers=where))

    # ── reading requests ─────────────────────────────────────────────────────

    def _read_create(self, draft: Draft, flags: Flags) -> Wanted:
        codes = self._codes_of_numbers(draft)
        if not draft.a.virtual_numbers and not draft.b.virtual_numbers:
            codes.add(Code.MISSING)
        names_somebody = {side: bool(draft.party(side).numbers) for side in Side}
        usage = draft.usage or Usage.TWOWAY
        if flags.common_pin:
            if draft.a.pin and draft.b.pin and draft.a.pin != draft.b.pin:
                codes.add(Code.BAD)
        elif any(not flags.pin_enabled(side) and not names_somebody[side] for side in Side):
            codes.add(Code.MISSING)
        codes |= self._codes_of_sides(names_somebody, usage)
        if codes:
            return Wanted(codes, None)
        virtual_numbers = {side: _numbers_of(draft.party(side).virtual_numbers or ()) for side in Side}
        shared = virtual_numbers[Side.A] or virtual_numbers[Side.B]
        parties = {}
        for side in Side:
            pin: Pin | None
            if flags.common_pin:
                pin = draft.a.pin or draft.b.pin or DRAWN
            elif flags.pin_enabled(side):
                pin = draft.party(side).pin or DRAWN
            else:
                pin = None
            parties[side] = Party(
                numbers=_numbers_of(draft.party(side).numbers or ()),
                virtual_numbers=virtual_numbers[side] or shared,
                pins=_one_or_none(pin),
                listed_need_pin=flags.pin_enabled(side),
            )
        becomes = Allocation(
            id=AllocationId(bytes(16)),
            product=Product.GREENPIN,
            usage=usage,
            expires_at_us=0,
            a=parties[Side.A],
            b=parties[Side.B],
            common_pin=flags.common_pin,
            has_members=False,
        )
        return Wanted(codes, becomes)

    def _read_update(self, held: Held, draft: Draft) -> Wanted:
        was = held.allocation
        codes = self._codes_of_numbers(draft)
        names_somebody = {
            side: bool(
                was.party(side).numbers if draft.party(side).numbers is None else draft.party(side).numbers
            )
            for side in Side
        }
        usage = draft.usage or was.usage
        if was.common_pin and draft.a.pin and draft.b.pin and draft.a.pin != draft.b.pin:
            codes.add(Code.BAD)
        if any(was.party(side).pin is None and not names_somebody[side] for side in Side):
            codes.add(Code.MISSING)
        codes |= self._codes_of_sides(names_somebody, usage)
        parties = {}
        for side in Side:
            party, asked = was.party(side), draft.party(side)
            numbers = party.numbers if asked.numbers is None else _numbers_of(asked.numbers)
            parties[side] = Party(
                numbers=numbers,
                virtual_numbers=_numbers_of(asked.virtual_numbers or ()) or party.virtual_numbers,
                pins=_one_or_none(self._revised_pin(was, side, draft)),
                listed_need_pin=party.listed_need_pin,
            )
        if set(parties[Side.A].numbers) & set(parties[Side.B].numbers):
            codes.add(Code.BOTH_SIDES)
        if codes:
            return Wanted(codes, None)
        return Wanted(codes, was._replace(usage=usage, a=parties[Side.A], b=parties[Side.B]))

    @staticmethod
    def _revised_pin(was: Allocation, side: Side, draft: Draft) -> Pin | None:
        pin = was.party(side).pin
        if pin is None:
            return None
        asked: Sequence[PartyDraft] = [draft.a, draft.b] if was.common_pin else [draft.party(side)]
        given = next((party.pin for party in asked if party.pin), None)
        length = next((party.pin_length for party in asked if party.pin_length), None)
        if given is not None:
            return given
        return pin if length in (None, len(pin)) else DRAWN

    def _codes_of_numbers(self, draft: Draft) -> set[Code]:
        codes = set()
        for side in Side:
            texts = list(draft.party(side).numbers or ())
            valid = [text for text in texts if text not in (NONSENSE, FOREIGN)]
            if len(valid) < len(texts) or any(number in self.provisioned for number in _numbers_of(valid)):
                codes.add(Code.BAD_NUMBER)
            elif len(texts) > 1 and len(set(texts)) == 1:
                codes.add(Code.ALL_DUPLICATES)
            for text in draft.party(side).virtual_numbers or ():
                if text == NONSENSE:
                    codes.add(Code.BAD_NUMBER)
                elif _numbers_of([text])[0] not in self.pool:
                    codes.add(Code.NOT_PERMITTED)
        good = [
            {
                number
                for number in _numbers_of(draft.party(side).numbers or ())
                if number not in self.provisioned
            }
            for side in Side
        ]
        if good[0] & good[1] - set(_numbers_of([FOREIGN])):
            codes.add(Code.BOTH_SIDES)
        return codes

    @staticmethod
    def _codes_of_sides(names_somebody: dict[Side, bool], usage: Usage) -> set[Code]:
        if not any(names_somebody.values()) or (usage is Usage.ONEWAY and not names_somebody[Side.B]):
            return {Code.MISSING}
        return set()

    # ── what stands in the way ───────────────────────────────────────────────

    def _is_in_the_way(self, becomes: Allocation, of: Held | None, now_us: int) -> bool:
        """Whether others, or its own two sides, have what it wants."""
        if (
            not becomes.common_pin
            and becomes.a.pin == becomes.b.pin
            and becomes.a.pin not in (None, DRAWN)
            and set(becomes.a.virtual_numbers) & set(becomes.b.virtual_numbers)
        ):
            return True
        routes = [
            (virtual_number, number, becomes.party(side).listed_need_pin)
            for side in Side
            for virtual_number in becomes.party(side).virtual_numbers
            for number in becomes.party(side).numbers
        ]
        if not all(self._has_room(route, of) for route in routes):
            return True
        return any(
            not self._is_pin_free(key, of, now_us) for key in pins_of(becomes) if key[1] != DRAWN.digits
        )

    def _has_room(self, route: tuple[E164, E164, bool], of: Held | None) -> bool:
        """One route without PIN and then no other, or any number with."""
        virtual_number, number, needs_pin = route
        return all(
            needs_pin and others_need_pin
            for held in self.live()
            if held is not of
            for others_vn, others_number, others_need_pin in held.routes()
            if (others_vn, others_number) == (virtual_number, number)
        )

    def _is_pin_free(self, key: tuple[E164, str], of: Held | None, now_us: int) -> bool:
        if any(key in pins_of(held.allocation) for held in self.live() if held is not of):
            return False
        owner, until_us = self.cooling.get(key, (None, 0))
        return until_us <= now_us or (of is not None and owner == of.id)

    def _with_drawn_pins(
        self,
        becomes: Allocation,
        answered: Allocation,
        lengths: dict[Side, int],
        of: Held | None,
        now_us: int,
    ) -> Allocation:
        """`becomes` with the PINs that were drawn, each of its length and free everywhere."""
        drawn = {side: becomes.party(side).pin == DRAWN for side in Side}
        full = becomes._replace(
            a=becomes.a._replace(pins=answered.a.pins) if drawn[Side.A] else becomes.a,
            b=becomes.b._replace(pins=answered.b.pins) if drawn[Side.B] else becomes.b,
        )
        for side in Side:
            if drawn[side]:
                pin = full.party(side).pin
                assert pin is not None
                assert len(pin) == lengths[side]
                drawn_keys = pins_of(full) - pins_of(becomes)
                assert all(self._is_pin_free(key, of, now_us) for key in drawn_keys)
                assert full.common_pin or full.a.pin != full.b.pin
        return full

    def _end(self, held: Held, at_us: int) -> None:
        held.is_gone = True
        for key in pins_of(held.allocation):
            self._cool(key, held, at_us)

    def _cool(self, key: tuple[E164, str], held: Held, at_us: int) -> None:
        if held.cool_off_s:
            self.cooling[key] = (held.id, at_us + held.cool_off_s * SECOND_US)


def _one_or_none(pin: Pin | None) -> tuple[Pin, ...]:
    return () if pin is None else (pin,)


def _numbers_of(texts: Sequence[str]) -> tuple[E164, ...]:
    """The numbers of a list of E.164 texts, each once."""
    return tuple(dict.fromkeys(E164(text.removeprefix("+")) for text in texts if text != NONSENSE))
