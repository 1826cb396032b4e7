"""What is allocated, as plain lists: an independent account of what requests and calls must do to it.

Nothing here is shared with routing/allocate.py, routing/choose.py or storage/: requests are judged by reading
routing.md over the lists, and calls by the naive decision of tests/routing over the same lists. How each form
of the API is read is beside this, in plain_greenpin.py, plain_greenvn.py and plain_second.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import PRECEDENCE, Code, Generation
from cordboard.routing.model import Allocation, AllocationId, Product, Side
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import VnChoice, VnSharing
from tests.routing.naive_model import Member, Row, World

NONSENSE: Final = "no number"
FOREIGN: Final = "+14155550100"

DRAWN: Final = Pin("000000000")
"""Stands for a PIN that the engine draws; the tests give none of nine digits."""

# (VN, number) and (VN, digits of a PIN).
Place = tuple[E164, E164]
PinPlace = tuple[E164, str]


@dataclass(frozen=True)
class Flags:
    """What the model reads of a tenant's settings."""

    a_pin: bool = True
    b_pin: bool = True
    common_pin: bool = False
    cool_off_s: int = 0
    vn_sharing: VnSharing = VnSharing.EXCLUSIVE
    # The model does not predict a choice, but it must be a right one by every way of choosing.
    vn_choice: VnChoice = VnChoice.LEAST_LOADED

    def pin_enabled(self, side: Side) -> bool:
        return self.a_pin if side is Side.A else self.b_pin


@dataclass(frozen=True)
class Line:
    """A VN of the pool."""

    region: str | None = None
    type: str | None = None
    is_drained: bool = False
    is_reserved: bool = False


@dataclass
class Held:
    """One allocation that was made, with whoever joined it."""

    client_id: str | None
    allocation: Allocation
    cool_off_s: int
    generation: Generation = Generation.FIRST
    pin_attempts_max: int | None = None
    pin_failures: int = 0
    members: list[Member] = field(default_factory=list)
    is_gone: bool = False
    has_expired: bool = False

    @property
    def id(self) -> AllocationId:
        return self.allocation.id

    @property
    def product(self) -> Product:
        return self.allocation.product

    @property
    def virtual_numbers(self) -> set[E164]:
        return {*self.allocation.a.virtual_numbers, *self.allocation.b.virtual_numbers}

    def is_of(self, product: Product, generation: Generation) -> bool:
        return self.product is product and self.generation is generation

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
            yield from listed_routes(self.allocation, side)
            for member in self.members:
                if member.side is side:
                    for virtual_number in member.virtual_numbers:
                        needs_pin = self.allocation.party(side).listed_need_pin
                        yield virtual_number, member.number, needs_pin

    def places(self) -> set[Place]:
        return {(virtual_number, number) for virtual_number, number, _ in self.routes()}

    def count_failures(self, failures: int) -> None:
        self.pin_failures = failures
        is_locked = self.pin_attempts_max is not None and failures >= self.pin_attempts_max
        self.allocation = self.allocation._replace(is_locked=self.allocation.is_exclusive and is_locked)


def listed_routes(allocation: Allocation, side: Side) -> list[tuple[E164, E164, bool]]:
    party = allocation.party(side)
    return [
        (virtual_number, number, party.listed_need_pin)
        for virtual_number in party.virtual_numbers
        for number in party.numbers
    ]


def listed_places(allocation: Allocation) -> set[Place]:
    return {route[:2] for side in Side for route in listed_routes(allocation, side)}


def pins_of(allocation: Allocation) -> set[PinPlace]:
    """Each PIN on each VN where it may be entered."""
    pins = set()
    for side in Side:
        party = allocation.party(side)
        virtual_numbers = set(party.virtual_numbers)
        if allocation.common_pin:
            virtual_numbers |= set(allocation.party(side.other).virtual_numbers)
        pins |= {(virtual_number, pin.digits) for virtual_number in virtual_numbers for pin in party.pins}
    return pins


def first(codes: Iterable[Code]) -> Code | None:
    return min(codes, key=PRECEDENCE.index, default=None)


class Wanted(NamedTuple):
    """A request as the model reads it: the codes that it breaks by itself, and what it would become."""

    codes: set[Code]
    becomes: Allocation | None


class Cooling(NamedTuple):
    """Whose something was, and until when nobody else gets it."""

    owner: AllocationId
    until_us: int

    def keeps_out(self, id: AllocationId | None, now_us: int) -> bool:
        return now_us < self.until_us and id != self.owner


class PlainModel:
    def __init__(self, pool: Mapping[E164, Line], others_pool: Iterable[E164]) -> None:
        self.pool = dict(pool)
        self.provisioned = frozenset(self.pool) | frozenset(others_pool)
        self.held: list[Held] = []
        self.cooling_pins: dict[PinPlace, Cooling] = {}
        # Of these the longest counts: several routes that need a PIN may have ended one after the other.
        self.cooling_places: dict[Place, Cooling] = {}
        # VNs that bore one allocation alone.
        self.cooling_lines: dict[E164, Cooling] = {}

    # ── what stands ──────────────────────────────────────────────────────────

    def pass_time(self, now_us: int) -> None:
        for held in self.held:
            if not held.is_gone and not held.allocation.is_live(now_us):
                held.has_expired = True
                self._end(held, held.allocation.expires_at_us)

    def live(self, product: Product | None = None, generation: Generation | None = None) -> list[Held]:
        return [
            held
            for held in self.held
            if not held.is_gone and product in (None, held.product) and generation in (None, held.generation)
        ]

    def by_id(self, id: AllocationId) -> Held:
        return next(held for held in self.held if held.id == id)

    def world(self) -> World:
        return World(frozenset(self.pool), tuple(held.row() for held in self.live()))

    def set_line_state(self, virtual_number: E164, *, is_drained: bool, is_reserved: bool) -> None:
        line = self.pool[virtual_number]
        self.pool[virtual_number] = replace(line, is_drained=is_drained, is_reserved=is_reserved)

    # ── requests ─────────────────────────────────────────────────────────────

    def code_of_create(
        self, product: Product, client_id: str | None, wanted: Wanted, now_us: int
    ) -> Code | None:
        codes = set(wanted.codes)
        if self.has_client_id(product, client_id):
            codes.add(Code.CLIENT_ID_TAKEN)
        if wanted.becomes is not None and self.is_in_the_way(wanted.becomes, None, now_us):
            codes.add(Code.PIN_OR_NUMBER_TAKEN)
        return first(codes)

    def code_of_update(self, held: Held, wanted: Wanted, now_us: int) -> Code | None:
        if wanted.becomes is None:
            return first(wanted.codes)
        if wanted.becomes == held.allocation:
            return None
        if self.is_in_the_way(wanted.becomes, held, now_us):
            return Code.PIN_OR_NUMBER_TAKEN
        return first(wanted.codes)

    def has_client_id(self, product: Product, client_id: str | None) -> bool:
        return client_id is not None and any(held.client_id == client_id for held in self.live(product))

    def put_in(self, held: Held) -> Held:
        self.held.append(held)
        self._is_there(held)
        return held

    def change(self, held: Held, becomes: Allocation, now_us: int) -> None:
        """What is left behind cools, and members follow as far as they may."""
        was, places = held.allocation, held.places()
        left = held.virtual_numbers
        held.allocation = becomes
        self._members_follow(held, was)
        until_us = now_us + held.cool_off_s * SECOND_US
        for place in places - held.places():
            self._cool_place(place, held, until_us)
        for key in pins_of(was) - pins_of(becomes):
            self._cool_pin(key, held, until_us)
        for virtual_number in left - held.virtual_numbers:
            self._cool_line(virtual_number, held, until_us)
        self._is_there(held)

    def release(self, held: Held, now_us: int) -> None:
        self._end(held, now_us)

    # ── callers ──────────────────────────────────────────────────────────────

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

    def count_a_failure(self, id: AllocationId) -> None:
        held = self.by_id(id)
        held.count_failures(held.pin_failures + 1)

    def forget_failures(self, id: AllocationId) -> None:
        held = self.by_id(id)
        if not held.allocation.is_locked:
            held.count_failures(0)

    def _members_follow(self, held: Held, was: Allocation) -> None:
        members, held.members = held.members, []
        becomes = held.allocation
        for member in members:
            party = becomes.party(member.side)
            if set(party.pins) != set(was.party(member.side).pins):
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

    # ── what stands in the way ───────────────────────────────────────────────

    def is_in_the_way(self, becomes: Allocation, of: Held | None, now_us: int) -> bool:
        """Whether others, or its own two sides, have what it wants."""
        if (
            not becomes.common_pin
            and set(becomes.a.pins) & set(becomes.b.pins) - {DRAWN}
            and set(becomes.a.virtual_numbers) & set(becomes.b.virtual_numbers)
        ):
            return True
        if any(
            not self._may_stand_on(virtual_number, becomes, of, now_us)
            for virtual_number in (*becomes.a.virtual_numbers, *becomes.b.virtual_numbers)
        ):
            return True
        routes = [route for side in Side for route in listed_routes(becomes, side)]
        if not all(self._has_room(route, of) for route in routes):
            return True
        if becomes.product is Product.GREENVN and any(
            self.is_place_cooling(place, of, now_us)
            for place in listed_places(becomes) - (set() if of is None else listed_places(of.allocation))
        ):
            return True
        return any(
            not self.is_pin_free(key, of, now_us) for key in pins_of(becomes) if key[1] != DRAWN.digits
        )

    def is_anybody_alone_on(self, virtual_number: E164, of: Held | None, now_us: int) -> bool:
        """Whether somebody else has the VN for itself, or had it a short while ago."""
        cooling = self.cooling_lines.get(virtual_number)
        return (cooling is not None and cooling.keeps_out(_id_of(of), now_us)) or any(
            held.allocation.is_exclusive and virtual_number in held.virtual_numbers
            for held in self._others(of)
        )

    def has_a_route(self, virtual_number: E164, number: E164, of: Held | None) -> bool:
        return any((virtual_number, number) in held.places() for held in self._others(of))

    def is_place_cooling(self, place: Place, of: Held | None, now_us: int) -> bool:
        cooling = self.cooling_places.get(place)
        return cooling is not None and cooling.keeps_out(_id_of(of), now_us)

    def is_pin_free(self, key: PinPlace, of: Held | None, now_us: int) -> bool:
        if any(key in pins_of(held.allocation) for held in self._others(of)):
            return False
        cooling = self.cooling_pins.get(key)
        return cooling is None or not cooling.keeps_out(_id_of(of), now_us)

    def _may_stand_on(self, virtual_number: E164, becomes: Allocation, of: Held | None, now_us: int) -> bool:
        if self.is_anybody_alone_on(virtual_number, of, now_us):
            return False
        return not becomes.is_exclusive or not any(
            virtual_number in held.virtual_numbers for held in self._others(of)
        )

    def _has_room(self, route: tuple[E164, E164, bool], of: Held | None) -> bool:
        """One route without PIN and then no other, or any number with."""
        virtual_number, number, needs_pin = route
        return all(
            needs_pin and others_need_pin
            for held in self._others(of)
            for others_vn, others_number, others_need_pin in held.routes()
            if (others_vn, others_number) == (virtual_number, number)
        )

    def _others(self, of: Held | None) -> list[Held]:
        return [held for held in self.live() if held is not of]

    # ── what cools ───────────────────────────────────────────────────────────

    def _is_there(self, held: Held) -> None:
        for key in pins_of(held.allocation):
            self.cooling_pins.pop(key, None)
        if held.allocation.is_exclusive:
            for virtual_number in held.virtual_numbers:
                self.cooling_lines.pop(virtual_number, None)

    def _end(self, held: Held, at_us: int) -> None:
        held.is_gone = True
        until_us = at_us + held.cool_off_s * SECOND_US
        for place in held.places():
            self._cool_place(place, held, until_us)
        for key in pins_of(held.allocation):
            self._cool_pin(key, held, until_us)
        for virtual_number in held.virtual_numbers:
            self._cool_line(virtual_number, held, until_us)

    def _cool_place(self, place: Place, held: Held, until_us: int) -> None:
        before = self.cooling_places.get(place)
        if held.cool_off_s and (before is None or before.until_us <= until_us):
            self.cooling_places[place] = Cooling(held.id, until_us)

    def _cool_pin(self, key: PinPlace, held: Held, until_us: int) -> None:
        if held.cool_off_s:
            self.cooling_pins[key] = Cooling(held.id, until_us)

    def _cool_line(self, virtual_number: E164, held: Held, until_us: int) -> None:
        if held.cool_off_s and held.allocation.is_exclusive:
            self.cooling_lines[virtual_number] = Cooling(held.id, until_us)

    # ── what every form of the API says of numbers ───────────────────────────

    def codes_of_people(self, texts: Sequence[str]) -> set[Code]:
        valid = [text for text in texts if text not in (NONSENSE, FOREIGN)]
        if len(valid) < len(texts) or any(number in self.provisioned for number in numbers_of(valid)):
            return {Code.BAD_NUMBER}
        return {Code.ALL_DUPLICATES} if len(texts) > 1 and len(set(texts)) == 1 else set()

    def codes_of_lines(self, texts: Sequence[str], has: Iterable[E164] = ()) -> set[Code]:
        """Of VNs that a request names; `has` are those on which its allocation stands already."""
        codes = set()
        for text in texts:
            if text == NONSENSE:
                codes.add(Code.BAD_NUMBER)
                continue
            [number] = numbers_of([text])
            if number not in self.pool or (self.pool[number].is_drained and number not in has):
                codes.add(Code.NOT_PERMITTED)
        return codes

    def codes_of_both(self, a: Sequence[str], b: Sequence[str]) -> set[Code]:
        """Those of the two sides together."""
        common = set(a) & set(b) - {FOREIGN, NONSENSE}
        return {Code.BOTH_SIDES} if set(numbers_of(sorted(common))) - self.provisioned else set()


def _id_of(held: Held | None) -> AllocationId | None:
    return None if held is None else held.id


def numbers_of(texts: Sequence[str]) -> tuple[E164, ...]:
    """The numbers of a list of E.164 texts, each once."""
    return tuple(dict.fromkeys(E164(text.removeprefix("+")) for text in texts if text != NONSENSE))
