"""Allocations proposed: what a request asks for, held against the rules of routing.md.

Pure: the pool, the clock and the dice are arguments. What two requests may not both have is decided
by the database; here is everything that one request alone can get wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from itertools import count
from typing import Final, Protocol, assert_never
from uuid import UUID

from cordboard.routing.model import SIDES, Allocation, AllocationId, Party, Product, Side, State, Usage
from cordboard.routing.numbers import E164, Pin, country_calls, parse_number
from cordboard.routing.tenant import TenantSettings, expiry_us

NUMBERS_PER_SIDE_MAX: Final = 10
# 50 VNs × 10 numbers × 2 sides are 1,000 routes, some 20 ms of a transaction.
VIRTUAL_NUMBERS_PER_SIDE_MAX: Final = 50

# While most PINs of a length are free the first draw or two will do.
RANDOM_DRAWS: Final = 32


class Code(IntEnum):
    """The codes of exotel.md 8.8."""

    INTERNAL = 0
    NOT_FOUND = 1
    UNSUPPORTED_FILTER = 2
    MISSING = 3
    NOTHING_FREE = 4
    BAD = 5
    UNAUTHENTICATED = 7
    NOT_PERMITTED = 8
    VERSION = 9
    ALL_DUPLICATES = 13
    BOTH_SIDES = 14
    REGION = 15
    BAD_NUMBER = 16
    TOO_MANY = 17
    CLIENT_ID_TAKEN = 18
    PIN_OR_NUMBER_TAKEN = 19
    DELETED = 22
    DATE_RANGE = 23
    FLOW = 50


# Where one body breaks several rules, the first of these is answered (routing.md, Promises 3). It does not
# place regions (15) and flows (50): they wait until what it places is right.
PRECEDENCE: Final = tuple(map(Code, (3, 5, 16, 8, 13, 14, 18, 19, 15, 50, 4)))


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule that a request breaks; `message` names `field` and no number or PIN whole."""

    code: Code
    field: str
    message: str


class Unacceptable(Exception):
    """A request that breaks rules; `fault` is the one to answer."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.fault = min(faults, key=lambda fault: PRECEDENCE.index(fault.code))
        super().__init__(self.fault.message)


class Pool(Protocol):
    """Which numbers are virtual, and which PINs are taken."""

    def has_virtual_number(self, virtual_number: E164) -> bool:
        """Whether the number is in this tenant's pool."""
        ...

    def is_drained(self, virtual_number: E164) -> bool:
        """Whether a VN of this tenant's pool gets no new allocation."""
        ...

    def is_provisioned(self, number: E164) -> bool:
        """Whether the number is in any tenant's pool."""
        ...

    def is_pin_taken(self, virtual_number: E164, pin: Pin) -> bool: ...


Dice = Callable[[int], int]
"""`dice(n)` is a random number of 0 to n - 1 that nobody can guess."""


@dataclass(frozen=True, slots=True)
class PartyDraft:
    """What a request says of one side; None is what it does not say."""

    numbers: Sequence[str] | None = None
    virtual_numbers: Sequence[str] | None = None
    pin: Pin | None = None
    pin_length: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A GreenPin request, its types checked, its numbers still text."""

    a: PartyDraft = PartyDraft()
    b: PartyDraft = PartyDraft()
    usage: Usage | None = None
    duration_s: int | None = None
    tags: tuple[str | None, str | None] = (None, None)
    # What the request breaks by its form alone: a key of the wrong type, or missing. Such a key has no
    # value here; its fault is weighed with the others, because the order of codes goes across all rules.
    faults: tuple[Fault, ...] = ()

    def party(self, side: Side) -> PartyDraft:
        return self.a if side is Side.A else self.b

    def is_malformed(self, field: str) -> bool:
        """Whether the request has `field` in a form that cannot be read: it is wrong, and not missing."""
        return any(fault.field == field for fault in self.faults)


class Generation(IntEnum):
    """The form of the API that made an allocation, and in which it is answered (exotel.md 8 and 9)."""

    FIRST = 1
    SECOND = 2


_ID_PREFIXES: Final[Mapping[Product, str]] = {Product.GREENPIN: "gp_", Product.GREENVN: "gvn_"}


def id_prefix(product: Product) -> str:
    """With what the ids of the second generation begin."""
    return _ID_PREFIXES[product]


def id_text(id: AllocationId, product: Product, generation: Generation) -> str:
    """The allocation as its client knows it: a UUID, or `gp_` or `gvn_` and 32 hex digits."""
    match generation:
        case Generation.FIRST:
            return str(UUID(bytes=id))
        case Generation.SECOND:
            return id_prefix(product) + id.hex()
        case unmatched:
            assert_never(unmatched)


class ReleaseCause(Enum):
    EXPIRED = "expired"
    REQUESTED = "requested"


@dataclass(frozen=True, slots=True)
class Standing:
    """An allocation with what only the API and the records need of it.

    The second generation has no `client_id`. `pin_attempts_max` and `pin_failures` are of those allocations
    that lock themselves.
    """

    tenant_id: str
    client_id: str | None
    allocation: Allocation
    state: State
    version: int
    cool_off_s: int
    created_at_us: int
    generation: Generation = Generation.FIRST
    flow_id: str | None = None
    # By side; None: the tenant's.
    tags: tuple[str | None, str | None] = (None, None)
    pin_attempts_max: int | None = None
    pin_failures: int = 0
    updated_at_us: int | None = None
    released_at_us: int | None = None
    release_cause: ReleaseCause | None = None

    def is_active(self, now_us: int) -> bool:
        """Past its end it is vaulted for everybody; nothing waits for the sweep."""
        return self.state is State.ACTIVE and self.allocation.is_live(now_us)


_SIDE_KEYS: Final = ("a", "b")


def side_key(side: Side) -> str:
    """How the wire calls the side, `a` or `b`."""
    return _SIDE_KEYS[side]


def propose(
    allocation_id: AllocationId,
    tenant_id: str,
    client_id: str,
    draft: Draft,
    settings: TenantSettings,
    pool: Pool,
    dice: Dice,
    now_us: int,
) -> Standing:
    """The allocation that a create asks for. Raises Unacceptable."""
    faults = list(draft.faults)
    numbers = {side: _listed(side, draft, settings, pool, faults) or () for side in SIDES}
    virtual_numbers = {side: _virtual_numbers(side, draft, settings, pool, faults) for side in SIDES}
    # A side without VNs of its own takes the other's, now and never again.
    shared = virtual_numbers[Side.A] or virtual_numbers[Side.B] or ()
    if not any(
        draft.party(side).virtual_numbers or draft.is_malformed(f"{side_key(side)}.vns") for side in SIDES
    ):
        faults.append(Fault(Code.MISSING, "a.vns", "a.vns or b.vns must be given."))
    usage = draft.usage or Usage.TWOWAY
    common = settings.common_pin_enabled
    is_listed = {
        side: bool(draft.party(side).numbers) or draft.is_malformed(f"{side_key(side)}.numbers")
        for side in SIDES
    }
    _check_pins(draft, settings, is_listed, faults)
    _check_sides(numbers, usage, is_listed, faults)
    if faults:
        raise Unacceptable(faults)

    used = {side: virtual_numbers[side] or shared for side in SIDES}
    pins: dict[Side, Pin | None]
    if common:
        given = draft.a.pin or draft.b.pin
        everywhere = tuple(dict.fromkeys(used[Side.A] + used[Side.B]))
        length = draft.a.pin_length or draft.b.pin_length or settings.common_pin_length
        pin = given or draw_pin(length, everywhere, (), pool, dice, "a.pin")
        pins = {Side.A: pin, Side.B: pin}
    else:
        pins = {}
        for side in SIDES:
            pins[side] = _pin_of_side(side, draft, settings, used[side], tuple(pins.values()), pool, dice)
    _check_distinct_pins(common, pins, used)
    parties = {
        side: Party(
            numbers=numbers[side],
            virtual_numbers=used[side],
            pins=_one_or_none(pins[side]),
            listed_need_pin=_pin_enabled(side, settings) and pins[side] is not None,
        )
        for side in SIDES
    }
    return Standing(
        tenant_id=tenant_id,
        client_id=client_id,
        allocation=Allocation(
            id=allocation_id,
            product=Product.GREENPIN,
            usage=usage,
            expires_at_us=expiry_us(settings, draft.duration_s, now_us),
            a=parties[Side.A],
            b=parties[Side.B],
            common_pin=common,
            has_members=False,
        ),
        state=State.ACTIVE,
        version=1,
        cool_off_s=settings.cool_off_s,
        created_at_us=now_us,
        tags=draft.tags,
    )


def revise(
    current: Standing,
    draft: Draft,
    settings: TenantSettings,
    pool: Pool,
    dice: Dice,
    now_us: int,
) -> Standing:
    """`current` with what an update names changed. Raises Unacceptable.

    Which sides have PINs was settled when it was made; a later change of the settings changes nothing.
    """
    faults = list(draft.faults)
    was = current.allocation
    parties: dict[Side, Party] = {}
    for side in SIDES:
        party = was.party(side)
        numbers = _listed(side, draft, settings, pool, faults)
        virtual_numbers = _virtual_numbers(
            side, draft, settings, pool, faults, was.a.virtual_numbers + was.b.virtual_numbers
        )
        parties[side] = party._replace(
            numbers=party.numbers if numbers is None else numbers,
            virtual_numbers=virtual_numbers or party.virtual_numbers,
        )
    usage = draft.usage or was.usage
    if was.common_pin and draft.a.pin and draft.b.pin and draft.a.pin != draft.b.pin:
        faults.append(_TWO_COMMON_PINS)
    is_listed = {
        side: bool(party.numbers if draft.party(side).numbers is None else draft.party(side).numbers)
        or draft.is_malformed(f"{side_key(side)}.numbers")
        for side, party in parties.items()
    }
    faults.extend(
        _neither(side) for side, party in parties.items() if not is_listed[side] and party.pin is None
    )
    by_side = {side: party.numbers for side, party in parties.items()}
    _check_sides(by_side, usage, is_listed, faults)
    if faults:
        raise Unacceptable(faults)

    pins = {side: party.pin for side, party in parties.items()}
    if was.common_pin:
        pin = _revised_pin(was.a.pin, draft.a.pin or draft.b.pin, draft.a.pin_length or draft.b.pin_length)
        if isinstance(pin, int):
            everywhere = tuple(
                dict.fromkeys(parties[Side.A].virtual_numbers + parties[Side.B].virtual_numbers)
            )
            pin = draw_pin(pin, everywhere, (), pool, dice, "a.pin_length")
        pins = {Side.A: pin, Side.B: pin}
    else:
        for side, party in parties.items():
            asked = draft.party(side)
            if party.pin is None:
                continue  # Its PIN is off: one given is ignored.
            pin = _revised_pin(party.pin, asked.pin, asked.pin_length)
            if isinstance(pin, int):
                others = (pins[side.other], draft.party(side.other).pin)
                pin = draw_pin(pin, party.virtual_numbers, others, pool, dice, f"{side_key(side)}.pin_length")
            pins[side] = pin
    _check_distinct_pins(
        was.common_pin, pins, {side: party.virtual_numbers for side, party in parties.items()}
    )
    expires_at_us = was.expires_at_us
    if draft.duration_s is not None:
        expires_at_us = expiry_us(settings, draft.duration_s, now_us)
    return replace(
        current,
        allocation=was._replace(
            usage=usage,
            expires_at_us=expires_at_us,
            a=parties[Side.A]._replace(pins=_one_or_none(pins[Side.A])),
            b=parties[Side.B]._replace(pins=_one_or_none(pins[Side.B])),
        ),
        version=current.version + 1,
        updated_at_us=now_us,
    )


def _one_or_none(pin: Pin | None) -> tuple[Pin, ...]:
    return () if pin is None else (pin,)


def draw_pin(
    length: int,
    virtual_numbers: Iterable[E164],
    others: Sequence[Pin | None],
    pool: Pool,
    dice: Dice,
    field: str,
) -> Pin:
    """A PIN of `length` digits, random among those free on all `virtual_numbers` and not in `others`.

    Raises Unacceptable (452/4) when there is none.
    """
    on = tuple(virtual_numbers)
    space = 10**length

    def is_free(pin: Pin) -> bool:
        return pin not in others and not any(pool.is_pin_taken(number, pin) for number in on)

    for _ in range(RANDOM_DRAWS):
        if is_free(pin := Pin(f"{dice(space):0{length}d}")):
            return pin
    # Nearly all are taken: walk from a random place, so that the last free one is found too. The walk
    # is as long as a run of taken PINs, each a seek of a microsecond.
    start = dice(space)
    for step in count():
        if step == space:
            break
        if is_free(pin := Pin(f"{(start + step) % space:0{length}d}")):
            return pin
    message = f"{field}: no PIN of {length} digits is free on the virtual numbers of this side."
    raise Unacceptable([Fault(Code.NOTHING_FREE, field, message)])


_TWO_COMMON_PINS: Final = Fault(
    Code.BAD, "b.pin", "b.pin: both sides have one common PIN here; a.pin and b.pin must not differ."
)


def _neither(side: Side) -> Fault:
    field = f"{side_key(side)}.numbers"
    return Fault(
        Code.MISSING, field, f"{field} must be given: without numbers or a PIN nobody is on this side."
    )


def _listed(
    side: Side, draft: Draft, settings: TenantSettings, pool: Pool, faults: list[Fault]
) -> tuple[E164, ...] | None:
    given = draft.party(side).numbers
    return (
        None if given is None else listed_numbers(f"{side_key(side)}.numbers", given, settings, pool, faults)
    )


def listed_numbers(
    field: str, given: Sequence[str], settings: TenantSettings, pool: Pool, faults: list[Fault]
) -> tuple[E164, ...]:
    """A side's listed numbers, each once, in the order given; what is wrong with them goes to `faults`."""
    numbers: list[E164] = []
    for position, text in enumerate(given):
        number = parse_number(text, settings.country)
        if number is None:
            message = f"{field}[{position}] is not a telephone number."
            faults.append(Fault(Code.BAD_NUMBER, field, message))
        elif not settings.foreign_numbers_allowed and not country_calls(settings.country, number):
            message = (
                f"{field}[{position}] is not a number of {settings.country};"
                " the setting intl_num_sup allows others."
            )
            faults.append(Fault(Code.BAD_NUMBER, field, message))
        elif pool.is_provisioned(number):
            message = f"{field}[{position}] is a virtual number; it would dial itself."
            faults.append(Fault(Code.BAD_NUMBER, field, message))
        else:
            numbers.append(number)
    once = tuple(dict.fromkeys(numbers))
    if len(once) == 1 and len(given) > 1 and len(numbers) == len(given):
        message = f"{field}: all its numbers are the same one."
        faults.append(Fault(Code.ALL_DUPLICATES, field, message))
    return once


def _virtual_numbers(
    side: Side,
    draft: Draft,
    settings: TenantSettings,
    pool: Pool,
    faults: list[Fault],
    has: Sequence[E164] = (),
) -> tuple[E164, ...] | None:
    """The side's VNs as the request names them; `has` are those that the allocation stands on already."""
    given = draft.party(side).virtual_numbers
    if not given:
        return None
    field = f"{side_key(side)}.vns"
    numbers: list[E164] = []
    for position, text in enumerate(given):
        number = parse_number(text, settings.country)
        if number is None:
            faults.append(Fault(Code.BAD_NUMBER, field, f"{field}[{position}] is not a telephone number."))
        elif not pool.has_virtual_number(number):
            message = f"{field}[{position}] is not a virtual number of this tenant."
            faults.append(Fault(Code.NOT_PERMITTED, field, message))
        elif pool.is_drained(number) and number not in has:
            message = f"{field}[{position}] is a virtual number that gets no new allocations."
            faults.append(Fault(Code.NOT_PERMITTED, field, message))
        else:
            numbers.append(number)
    return tuple(dict.fromkeys(numbers))


def _check_pins(
    draft: Draft, settings: TenantSettings, is_listed: Mapping[Side, bool], faults: list[Fault]
) -> None:
    if settings.common_pin_enabled:
        if draft.a.pin and draft.b.pin and draft.a.pin != draft.b.pin:
            faults.append(_TWO_COMMON_PINS)
        return
    faults.extend(
        _neither(side) for side in SIDES if not _pin_enabled(side, settings) and not is_listed[side]
    )


def _check_sides(
    numbers: dict[Side, tuple[E164, ...]],
    usage: Usage,
    is_listed: Mapping[Side, bool],
    faults: list[Fault],
) -> None:
    """What the two sides must be together. Whether a side lists anybody is asked apart from `numbers`,
    which lack those that are no numbers: a wrong number is not a missing one."""
    if not any(is_listed.values()):
        message = "a.numbers or b.numbers must be given."
        faults.append(Fault(Code.MISSING, "a.numbers", message))
    elif usage is Usage.ONEWAY and not is_listed[Side.B]:
        message = "b.numbers must be given: with usage oneway nobody could be called."
        faults.append(Fault(Code.MISSING, "b.numbers", message))
    if set(numbers[Side.A]) & set(numbers[Side.B]):
        message = "b.numbers: a number cannot be on both sides, a.numbers has it too."
        faults.append(Fault(Code.BOTH_SIDES, "b.numbers", message))


def _pin_enabled(side: Side, settings: TenantSettings) -> bool:
    return settings.a_pin_enabled if side is Side.A else settings.b_pin_enabled


def _pin_of_side(
    side: Side,
    draft: Draft,
    settings: TenantSettings,
    virtual_numbers: tuple[E164, ...],
    others: tuple[Pin | None, ...],
    pool: Pool,
    dice: Dice,
) -> Pin | None:
    if not _pin_enabled(side, settings):
        return None
    asked = draft.party(side)
    if asked.pin is not None:
        return asked.pin
    default = settings.a_pin_length if side is Side.A else settings.b_pin_length
    length = asked.pin_length or default
    others = (*others, draft.party(side.other).pin)
    return draw_pin(length, virtual_numbers, others, pool, dice, f"{side_key(side)}.pin")


def _check_distinct_pins(
    common: bool, pins: dict[Side, Pin | None], virtual_numbers: dict[Side, tuple[E164, ...]]
) -> None:
    """On a VN of both sides one PIN must not stand for both."""
    if common or pins[Side.A] is None or pins[Side.A] != pins[Side.B]:
        return
    if set(virtual_numbers[Side.A]) & set(virtual_numbers[Side.B]):
        message = "b.pin: it is a.pin too, on a virtual number that both sides have."
        raise Unacceptable([Fault(Code.PIN_OR_NUMBER_TAKEN, "b.pin", message)])


def _revised_pin(was: Pin | None, pin: Pin | None, pin_length: int | None) -> Pin | int | None:
    """The PIN after an update, or the length of one to be drawn: `pin` wins over `pin_length`."""
    if pin is not None:
        return pin
    if was is not None and pin_length is not None and pin_length != len(was):
        return pin_length
    return was
